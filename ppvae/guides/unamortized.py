r"""Guides without amortization: own parameters for each row, and the search for q*, the best of them."""

__all__ = ["LocalFit", "LocalGuide", "optimize_local", "unamortized"]

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ppvae.guides.base import GuideBase
from ppvae.guides.flows import RowNetworks
from ppvae.guides.local_search import climb
from ppvae.guides.multi_start import keep_best, multi_start
from ppvae.guides.site_local import SiteLocal
from ppvae.problem.weights import refuse_global, score
from ppvae.story import (
    Batch,
    TensorDict,
    as_batch,
    local_params,
    num_rows_of,
    seeded_eval,
    trace_sites,
)

CHECK_PARTICLES = 100
# Pieces of so many particles by which starts are told apart: their noise differs, and pieces of a posterior can be close.
MANY_PIECES = 20


@dataclass(frozen=True)
class LocalFit:
    """How the search for q* went.

    Arguments:
        num_steps: Optimiser steps taken, the same for all rows.
        gain: L[q*] − L[start] of each row, `(B,)`, in nats, from particles that the search did not see; they decide which
            rows go back to the start, whose gain is 0.
        converged: Whether every step size stopped gaining before its share of the steps was taken.
    """

    num_steps: int
    gain: Tensor
    converged: bool


class LocalGuide(GuideBase):
    """The un-amortized member of a family: a complete set of family parameters for each row.

    For a flow these are the weights of the flow's networks too, a copy for each row. Serves exactly the rows it
    was made for.

    Arguments:
        guide: The amortized guide; its answer is the start.
        batch: The rows, name -> `(B, *event)`.
    """

    is_local = True

    def __init__(self, guide: Any, batch: TensorDict) -> None:
        super().__init__(name="local")
        self.batch = batch
        self.place, self.discrete, self.row_dim = guide.place, guide.discrete, guide.row_dim
        self._family = (guide,)  # in a tuple: the encoder is no part of this guide
        self.__dict__["shared"] = guide.shared  # nor is it renamed as a part of this guide
        self.borrowed = (guide.shared,)
        with torch.no_grad(), local_params(guide):
            start = guide.parameters_of(batch)
        self.rows = nn.ParameterDict({k: nn.Parameter(v.clone()) for k, v in start.items()})
        self.networks = nn.ParameterDict()
        if guide.transport is not None:
            for name, weight in guide.transport.named_parameters():
                copies = weight.detach().expand(num_rows_of(batch), *weight.shape).clone()
                self.networks[name.replace(".", "/")] = nn.Parameter(copies)

    def parameters_of(self, batch: Batch) -> TensorDict:
        """The rows' own parameters, name -> `(B, *shape)`."""
        if num_rows_of(as_batch(batch)) != num_rows_of(self.batch):
            raise ValueError(
                f"expected the {num_rows_of(self.batch)} rows that this local guide was made for, got "
                f"{num_rows_of(as_batch(batch))}; call guide.local(batch) on those rows"
            )
        return dict(self.rows.items())

    def distribution(self, parameters: TensorDict) -> Distribution:
        family = self._family[0]
        transport: Any = family.transport
        if transport is not None:
            weights = {k.replace("/", "."): w for k, w in self.networks.items()}
            transport = RowNetworks(transport, weights)
        return family.family(parameters, transport)

    def repeated(self, num: int) -> "LocalGuide":
        """A guide of the same rows, with the same parameters, `num` times over, one round after the other."""
        batch = {k: v.repeat(num, *(1,) * (v.dim() - 1)) for k, v in self.batch.items()}
        crowd = LocalGuide(self._family[0], batch)
        with torch.no_grad():
            for mine, many in ((self.rows, crowd.rows), (self.networks, crowd.networks)):
                for key, parameter in mine.items():
                    many[key].copy_(parameter.repeat(num, *(1,) * (parameter.dim() - 1)))
        return crowd

    def optimize(self, story: nn.Module, **options: Any) -> LocalFit:
        """Climb to q*, see `optimize_local`."""
        return optimize_local(story, self, **options)


def unamortized(guide: nn.Module, batch: Batch, story: nn.Module) -> "LocalGuide | SiteLocal":
    """The un-amortized version of any guide, started at its answer for these rows.

    Arguments:
        guide: One of the library's guides, or any Pyro guide whose sites are independent given the row.
        batch: The rows, name -> `(B, *event)`.
        story: The story that the guide belongs to.

    Raises:
        ValueError: If the guide is neither.
    """
    if isinstance(guide, LocalGuide | SiteLocal):
        return guide
    local: Any = getattr(guide, "local", None)
    if local is not None:
        return local(batch)
    return SiteLocal(guide, as_batch(batch), trace_sites(story, batch))


def optimize_local(
    story: nn.Module,
    local: "LocalGuide | SiteLocal",
    *,
    num_particles: int | None = None,
    num_starts: int | None = None,
    max_steps: int = 2000,
    tolerance: float = 0.003,
    seed: int | None = 0,
) -> LocalFit:
    """Find q*: maximise every row's own ELBO over the row's own parameters; the story stays as it is.

    Adam on all rows at once: its steps act on each number apart, so the rows do not touch. When a window of
    steps gains less than `tolerance`, the step size shrinks, and after the last shrink the parameters' average
    over the last window is taken; for flows, whose steps are noisy, a window that noise hides is doubled
    first. Where a row has few latent numbers, it is climbed from several places at once, its start and others among the
    draws of all rows; the start is kept to unless fresh particles show that another leads higher. A row that they show to be
    below its start goes back to the start.

    Arguments:
        story: The story.
        local: A guide from `guide.local(batch)` or `unamortized`; changed in place.
        num_particles: Particles of each row and step; None takes 8, and 32 where the gradient is noisier (flows).
        num_starts: Places from which each row is climbed; None takes 4 where it has at most 8 latent numbers, among which
            so few can find other pieces of a posterior, else 1. Somebody else's guide has one.
        max_steps: Bound on the steps; 0.7 of them go to the first step size at most.
        tolerance: Gain per row and window, in nats, below which the step size shrinks.
        seed: Seed of the draws.

    Returns:
        Steps, gains and whether the search converged.

    Raises:
        ValueError: If the story has global latent sites: its rows are not independent; or there is no step, or no start.
    """
    if max_steps < 1:
        raise ValueError(f"expected max_steps of at least 1 in a search for q*, got {max_steps}")
    if num_starts is not None and num_starts < 1:
        raise ValueError(f"expected num_starts of at least 1 in a search for q*, got {num_starts}")
    refuse_global(trace_sites(story, local.batch), "a search for q*")
    start = {k: p.detach().clone() for k, p in local.named_parameters()}
    check_seed = 1 if seed is None else seed + 1
    if not start:
        return LocalFit(0, torch.zeros(num_rows_of(local.batch)), True)
    before = _fresh_log_weights(story, local, check_seed)
    with seeded_eval(seed, story):
        crowd = multi_start(local, num_starts)
        num_steps, converged = climb(story, crowd, num_particles, max_steps, tolerance)
    if crowd is not local:
        keep_best(local, crowd, _fresh_log_weights(story, crowd, check_seed, MANY_PIECES))
    difference = _fresh_log_weights(story, local, check_seed) - before
    gain, noise = difference.mean(0), difference.std(0) / CHECK_PARTICLES**0.5
    worse = ~(gain >= -2 * noise)  # also where it is NaN
    with torch.no_grad():
        for name, parameter in local.named_parameters():
            if parameter.shape[:1] == worse.shape:
                mask = worse.reshape(-1, *(1,) * (parameter.dim() - 1))
                parameter.copy_(torch.where(mask, start[name], parameter))
    return LocalFit(num_steps, torch.where(worse, torch.zeros_like(gain), gain), converged)


def _fresh_log_weights(
    story: nn.Module, local: Any, seed: int | None, num_pieces: int = 1
) -> Tensor:
    """log w of particles that the search does not see, `(S, B)`, in nats; the same noise for the same seed."""
    with seeded_eval(seed, story), torch.no_grad():
        pieces = [
            score(story, local, local.batch, CHECK_PARTICLES).log_weights for _ in range(num_pieces)
        ]
        return torch.cat(pieces)
