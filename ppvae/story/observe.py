r"""Conditioning a story on rows of data, running it forward, and scoring it row by row."""

__all__ = ["LogJoint", "Observed", "log_joint", "observe", "scale_rows", "simulate", "sites_of"]

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.story.messengers import Condition, RowLogProb, RowScale
from ppvae.story.program import TensorDict, local_params, particle_plate, seeded
from ppvae.story.sites import DATA_PLATE, Layout, Sites, is_bookkeeping

Batch = Tensor | Mapping[str, Tensor]


class Observed(nn.Module):
    """A story conditioned on the batch it is called with: an ordinary Pyro model.

    Keys of the batch that the story's `forward` takes as arguments are covariates; all others must name
    sites, which are then observed. NaN means missing: filled with a valid value and masked.

    A plain module, not a PyroModule: Pyro lets no module that has run become part of another PyroModule.
    """

    def __init__(self, story: nn.Module, batch: Batch | None = None) -> None:
        super().__init__()
        self.story = story
        self.batch = None if batch is None else as_batch(batch)

    def forward(self, batch: Batch | None = None) -> None:
        batch = self.batch if batch is None else as_batch(batch)
        if batch is None:
            raise ValueError("expected a batch: observe(story)(batch) or observe(story, batch)()")
        run_observed(self.story, batch, {}, 0)


def observe(story: nn.Module, batch: Batch | None = None) -> Observed:
    """The conditioned model, for `pyro.infer.SVI`, `Predictive`, MCMC and every other Pyro tool.

    Arguments:
        story: A story whose `forward(n, **covariates)` generates `n` rows.
        batch: Rows to condition on, name -> `(B, *event)`; a bare tensor is the site `x`. Without it, the
            result is called with a batch.

    Returns:
        A Pyro model, callable as `observe(story)(batch)` or `observe(story, batch)()`.
    """
    return Observed(story, batch)


class _RowsScaled(nn.Module):
    def __init__(self, program: nn.Module, num_rows: int) -> None:
        super().__init__()
        self.program = program
        self.num_rows = num_rows

    def forward(self, batch: Batch) -> Any:
        batch = as_batch(batch)
        with RowScale(self.num_rows / num_rows_of(batch)):
            return self.program(batch)


def scale_rows(program: nn.Module, num_rows: int) -> nn.Module:
    """Make sites in the plate `data` count `N/B` times, so that global sites are weighed rightly.

    Apply it to the observed story and to the guide.

    Arguments:
        program: An observed story or a guide, called with a batch of `B` rows.
        num_rows: Number `N` of rows in all.
    """
    return _RowsScaled(program, num_rows)


def simulate(
    story: nn.Module, n: int, *, seed: int | None = None, **covariates: Tensor
) -> TensorDict:
    """Generate `n` rows: every site, latent and observable.

    Arguments:
        story: The story.
        n: Number of rows.
        seed: Seed of this draw; None draws from the global generator.
        covariates: Name -> `(n, *)`, passed to the story.

    Returns:
        Site name -> `(n, *inner plates, *event)`; a global site has its own shape.
    """
    if n < 1:
        raise ValueError(f"expected at least one row to simulate, got n={n}")
    with torch.no_grad(), local_params(story), seeded(seed, story):
        trace = poutine.trace(story).get_trace(n, **covariates)
    return {
        name: Layout.of(node["cond_indep_stack"], node["fn"].event_dim).to_rows(node["value"])
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not is_bookkeeping(node)
    }


def sites_of(story: nn.Module, batch: Batch) -> Sites:
    """The story's sites when it is conditioned on rows like `batch`, from one traced run on two rows.

    Arguments:
        story: The story.
        batch: Name -> `(B, *event)`.

    Returns:
        The sites by name, each marked latent or observed.

    Raises:
        ValueError: If the story has no plate `data`, or the batch does not fit its sites.
    """
    batch = as_batch(batch)
    few = {k: v[:2] for k, v in batch.items()}
    was_training = story.training
    story.eval()
    try:
        with torch.no_grad(), local_params(story), seeded(0, story):
            trace = poutine.trace(lambda: run_observed(story, few, {}, 0)).get_trace()
    finally:
        story.train(was_training)
    sites = Sites.from_trace(trace)
    if not any(s.layout.row_dim is not None for s in sites.values()):
        raise ValueError(
            f'expected a plate named "{DATA_PLATE}" around the rows, got a story with none; '
            f'write `with pyro.plate("{DATA_PLATE}", n):` around the sites {sorted(sites)}'
        )
    return sites


class LogJoint:
    """log p(x, z) row by row for fixed rows x and any number of particles z.

    Arguments:
        story: The story.
        batch: The rows x, name -> `(B, *event)`.
        sites: The story's sites, if already known.
    """

    def __init__(self, story: nn.Module, batch: Batch, sites: Sites | None = None) -> None:
        self.story = story
        self.batch = as_batch(batch)
        self.sites = sites_of(story, self.batch) if sites is None else sites

    def __call__(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Score particles.

        Arguments:
            latents: Every local latent site, name -> `(S, B, *row)`.

        Returns:
            log p(x, z) with shape `(S, B)`, in nats.
        """
        return self.split(latents)[0]

    def split(self, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As `__call__`, with the global sites' log p apart: `(S, B)` and `(S,)`, in nats."""
        missing = sorted(set(self.sites.latent) - set(latents))
        if missing:
            raise ValueError(f"expected a value for every latent site, got none for {missing}")
        num_particles = next(iter(latents.values())).shape[0] if latents else 1
        dim = self.sites.particle_dim
        scored = RowLogProb(dim, num_particles, num_rows_of(self.batch))
        with local_params(self.story), scored, particle_plate(num_particles, dim):
            run_observed(self.story, self.batch, latents, dim)
        return scored.local, scored.shared


def log_joint(story: nn.Module, batch: Batch, latents: Mapping[str, Tensor]) -> Tensor:
    """log p(x, z) of each particle and row.

    Arguments:
        story: The story; its observation densities are normalised.
        batch: Rows x, name -> `(B, *event)`; NaN is missing and does not count.
        latents: Every local latent site, name -> `(S, B, *row)`.

    Returns:
        `(S, B)`, in nats.

    Raises:
        ValueError: If a latent site is absent.
    """
    return LogJoint(story, batch)(latents)


def as_batch(batch: Batch) -> TensorDict:
    """A bare tensor is the site named `x`."""
    return {"x": batch} if isinstance(batch, Tensor) else dict(batch)


def num_rows_of(batch: Mapping[str, Tensor]) -> int:
    if not batch:
        raise ValueError("expected a batch with at least one key, got an empty one")
    return next(iter(batch.values())).shape[0]


def split_batch(story: nn.Module, batch: TensorDict) -> tuple[TensorDict, TensorDict]:
    """Sort a batch's keys into values of sites and covariates (arguments of the story's `forward`)."""
    parameters = list(inspect.signature(story.forward).parameters.values())[1:]
    names = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    lacking = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in batch
    ]
    if lacking:
        raise ValueError(f"expected the covariates {lacking} in the data, got keys {list(batch)}")
    return {k: v for k, v in batch.items() if k not in names}, {
        k: v for k, v in batch.items() if k in names
    }


def run_observed(
    story: nn.Module, batch: TensorDict, latents: Mapping[str, Tensor], particle_dim: int
) -> None:
    """Run the story with sites fixed to the batch's values and to `latents`."""
    conditioned = getattr(story, "run_conditioned", None)
    values, covariates = ({}, {}) if conditioned else split_batch(story, batch)
    handler = Condition(values, latents, particle_dim)
    with handler:
        if conditioned:
            conditioned(batch)
        else:
            story(num_rows_of(batch), **covariates)
    unused = sorted({*values, *latents} - handler.seen)
    if unused:
        raise ValueError(
            f"expected keys that name sites or covariates of the story, got {unused}; "
            f"the story's sites are {sorted(handler.met)}"
        )
