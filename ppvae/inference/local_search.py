r"""The search for q*: for each row the best member of the guide's own family, without amortization."""

__all__ = ["LocalFit", "fit_local", "optimize_local", "unamortized"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data.chunks import is_unamortized
from ppvae.guides.site_local import SiteLocal
from ppvae.guides.unamortized import LocalGuide
from ppvae.inference.elbo_ascent import maximize_elbo
from ppvae.inference.multi_start import keep_best, multi_start
from ppvae.problem.weights import refuse_global, score
from ppvae.story import Batch, TensorDict, as_batch, num_rows_of, seeded_eval, trace_sites

CHECK_PARTICLES = 100
# Starts are compared on so many times as many particles: their noise differs, and modes can be close.
COMPARE_REPEATS = 20


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


def unamortized(guide: nn.Module, batch: Batch, story: nn.Module) -> LocalGuide | SiteLocal:
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
    local: LocalGuide | SiteLocal,
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
        candidates = multi_start(local, num_starts)
        num_steps, converged = maximize_elbo(story, candidates, num_particles, max_steps, tolerance)
    if candidates is not local:
        keep_best(
            local, candidates, _fresh_log_weights(story, candidates, check_seed, COMPARE_REPEATS)
        )
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
    story: nn.Module, local: Any, seed: int | None, num_repeats: int = 1
) -> Tensor:
    """log w of particles that the search does not see, `(S, B)`, in nats; the same noise for the same seed."""
    with seeded_eval(seed, story), torch.no_grad():
        pieces = [
            score(story, local, local.batch, CHECK_PARTICLES).log_weights
            for _ in range(num_repeats)
        ]
        return torch.cat(pieces)


def fit_local(
    story: nn.Module, guide: nn.Module, rows: TensorDict, local_steps: int, seed: int | None
) -> tuple[nn.Module, LocalFit | None]:
    """q* on these rows, and how the search went; a local guide, or one without steps to take, stays as it is."""
    if local_steps == 0 or is_unamortized(guide):
        return guide, None
    local = unamortized(guide, rows, story)
    return local, optimize_local(story, local, max_steps=local_steps, seed=seed)
