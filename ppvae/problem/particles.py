r"""What several diagnostics do with particles: cut, score site by site, score under the guide, replicate rows."""

__all__ = [
    "chunks",
    "inputs_of",
    "log_guide_at",
    "log_guide_of",
    "log_prob_by_site",
    "missing_as",
    "refuse_all_summed",
    "refuse_local",
    "replicate",
    "unknown_rows",
]

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.data.chunks import CHUNK_NUMBERS, numbers_per_row
from ppvae.story import (
    Layout,
    RowLogProb,
    SampleRows,
    Sites,
    TensorDict,
    local_params,
    num_rows_of,
    particle_plate,
    split_batch,
)
from ppvae.story.conditioning import run_observed
from ppvae.story.handlers import Condition

CANNOT_TAKE_PARTICLES = (RuntimeError, ValueError, IndexError)
MAX_CHUNK_ROWS = 1000


def _num_chunk_rows(batch: TensorDict, guide: nn.Module | None, num_particles: int) -> int:
    """Rows of which `num_particles` particles fit in a chunk; all of them for a guide that serves no fewer."""
    if getattr(guide, "is_unamortized", False):
        return num_rows_of(batch)
    fit = CHUNK_NUMBERS // (numbers_per_row(batch) * num_particles)
    return max(1, min(MAX_CHUNK_ROWS, fit))


def chunks(
    batch: TensorDict, guide: nn.Module | None, num_particles: int
) -> Iterator[tuple[slice, TensorDict]]:
    """Cut a batch into pieces that `num_particles` particles of fit in memory, with their places."""
    step = _num_chunk_rows(batch, guide, num_particles)
    for start in range(0, num_rows_of(batch), step):
        where = slice(start, start + step)
        yield where, {k: v[where] for k, v in batch.items()}


def log_prob_by_site(
    story: nn.Module, batch: TensorDict, latents: TensorDict, sites: Sites
) -> TensorDict:
    """log p of every site given its parents, site -> `(S, B)`, in nats; missing entries do not count.

    Arguments:
        story: The story.
        batch: Rows, name -> `(B, *event)`.
        latents: Every latent site, name -> `(S, B, *row)`.
        sites: The story's sites.
    """
    num_rows = num_rows_of(batch)

    def run(values: TensorDict, num_particles: int, dim: int) -> TensorDict:
        scored = RowLogProb(sites.particle_dim, num_particles, num_rows)
        with local_params(story), scored:
            if not dim:
                run_observed(story, batch, values, 0)
            else:
                with particle_plate(num_particles, dim):
                    run_observed(story, batch, values, dim)
        return scored.by_site

    num_particles = len(next(iter(latents.values())))
    try:
        return run(latents, num_particles, sites.particle_dim)
    except CANNOT_TAKE_PARTICLES:
        if not hasattr(story, "run_conditioned"):
            raise
    # An adopted model need not know particles: one run for each.
    each = [run({k: v[s] for k, v in latents.items()}, 1, 0) for s in range(num_particles)]
    return {k: torch.cat([one[k] for one in each]) for k in each[0]}


def log_guide_at(guide: nn.Module, batch: TensorDict, latents: TensorDict, sites: Sites) -> Tensor:
    """log q(z | x) at values that the guide did not draw itself, over the sites that it draws.

    Arguments:
        guide: Any Pyro guide; one with auxiliary sites must be of `ppvae.guides`.
        batch: Rows, name -> `(B, *event)`.
        latents: Every local latent site that the guide draws, name -> `(S, B, *row)`.
        sites: The story's sites.

    Returns:
        `(S, B)`, in nats.

    Raises:
        ValueError: If the guide's density cannot be evaluated.
    """
    if hasattr(guide, "posterior") and hasattr(guide, "flat"):
        return _log_library_guide_at(guide, batch, latents, sites)
    scored = _scored_at(guide, batch, latents, sites)
    unknown = sorted(set(scored.by_site) - set(latents))
    if unknown:
        raise ValueError(
            f"expected a guide whose density can be evaluated at given values, got one with auxiliary sites {unknown}; "
            "give the guide a method posterior(batch) and an attribute flat, as those of ppvae.guides have"
        )
    return scored.local


def log_guide_of(guide: nn.Module, batch: TensorDict, drawn: SampleRows, sites: Sites) -> Tensor:
    """log q(z | x) of a guide's own draws, to be held against `log_guide_at`, `(S, B)`, in nats.

    What they were scored by when drawn, except where that is no density of z: a guide with numbers of its own beside z.

    Arguments:
        guide: Any Pyro guide.
        batch: Rows, name -> `(B, *event)`.
        drawn: What it drew.
        sites: The story's sites.
    """
    posterior: Any = getattr(guide, "posterior", None)
    if posterior is not None and hasattr(posterior(batch), "extended"):
        return log_guide_at(guide, batch, drawn.values, sites)
    return drawn.local


def _log_library_guide_at(
    guide: Any, batch: TensorDict, latents: TensorDict, sites: Sites
) -> Tensor:
    """The continuous sites as one vector, which has a density in closed form; discrete sites one by one."""
    parts = []
    if guide.flat.dim:
        u = guide.flat.flatten(latents)
        parts.append(guide.posterior(batch).log_prob(u) - guide.flat.unflatten(u)[1])
    discrete = {} if guide.discrete is None else {n: latents[n] for n in guide.discrete.sites}
    if discrete:
        scored = _scored_at(guide, batch, discrete, sites)
        parts += [scored.by_site[name] for name in discrete]
    return torch.stack(parts).sum(0)


def _scored_at(guide: Any, batch: TensorDict, latents: TensorDict, sites: Sites) -> RowLogProb:
    """Run a guide as a program with some of its sites held at values."""
    num_particles, num_rows, dim = (
        len(next(iter(latents.values()))),
        num_rows_of(batch),
        sites.particle_dim,
    )
    scored = RowLogProb(dim, num_particles, num_rows)
    plate, condition = particle_plate(num_particles, dim), Condition({}, latents, dim)
    try:
        with local_params(guide), scored, plate, condition:
            guide(batch)
        return scored
    except CANNOT_TAKE_PARTICLES:
        if hasattr(guide, "posterior"):
            raise  # made here: it knows particles
    # Somebody else's guide need not know them: one run for each, with no dimension for them.
    each = []
    for particle in range(num_particles):
        each.append(RowLogProb(dim, 1, num_rows))
        held = Condition({}, {k: v[particle] for k, v in latents.items()}, 0)
        with local_params(guide), each[-1], held:
            guide(batch)
    scored.is_local = each[0].is_local
    scored.by_site = {k: torch.cat([one.by_site[k] for one in each]) for k in each[0].by_site}
    return scored


def replicate(
    story: nn.Module,
    batch: TensorDict,
    latents: TensorDict,
    sites: Sites,
    given: Sequence[str] = (),
) -> TensorDict:
    """Draw the observed sites anew, given latent draws: one replicate of the rows for each particle.

    No observed value can come back: the story runs on the latent draws and covariates alone. Entries that the
    data miss are missing in the replicates too.

    Arguments:
        story: The story.
        batch: Rows, name -> `(B, *event)`; only their covariates, their missing entries, and `given` count.
        latents: Every latent site, name -> `(S, B, *row)`; observed sites that some rows miss may stand among them,
            and are then held there and not drawn anew.
        sites: The story's sites.
        given: Observed sites to hold at their data.

    Returns:
        Observed site -> `(S, B, *row)`.
    """
    num_particles = len(next(iter(latents.values())))
    try:
        drawn = _replicate(story, batch, latents, sites, given, sites.particle_dim)
    except CANNOT_TAKE_PARTICLES:
        if not hasattr(story, "run_conditioned"):
            raise
        each = [
            _replicate(story, batch, {k: v[s] for k, v in latents.items()}, sites, given, 0)
            for s in range(num_particles)
        ]
        drawn = {k: torch.stack([one[k] for one in each]) for k in each[0]}
    return {k: missing_as(v, batch.get(k)) for k, v in drawn.items()}


def _replicate(
    story: nn.Module,
    batch: TensorDict,
    latents: TensorDict,
    sites: Sites,
    given: Sequence[str],
    dim: int,
) -> TensorDict:
    inputs = inputs_of(story, batch)
    condition = Condition({name: batch[name] for name in given}, latents, dim)
    with local_params(story), poutine.trace() as traced, condition:
        if dim:
            with particle_plate(len(next(iter(latents.values()))), dim):
                story(num_rows_of(batch), **inputs)
        else:
            story(num_rows_of(batch), **inputs)
    nodes: Any = traced.trace.nodes
    drawn = {}
    for name in (n for n in sites.observed if n not in given and n not in latents):
        node = nodes[name]
        layout = Layout.of(node["cond_indep_stack"], node["fn"].event_dim)
        drawn[name] = layout.to_rows(node["value"], particle_dim=dim)
    return drawn


def inputs_of(story: nn.Module, batch: TensorDict) -> TensorDict:
    """What a story needs to generate rows beside these: its covariates; an adopted model takes the rows themselves."""
    return batch if hasattr(story, "run_conditioned") else split_batch(story, batch)[1]


def missing_as(value: Tensor, data: Tensor | None) -> Tensor:
    """The value, NaN where the data are; they broadcast."""
    if data is None or not data.is_floating_point() or not bool(torch.isnan(data.sum())):
        return value
    return torch.where(torch.isnan(data), torch.full_like(data, torch.nan), value.to(data.dtype))


def unknown_rows(value: Tensor) -> Tensor:
    """Rows of an observed site that are missing, `(B,)`: there the site is latent and counts as no observation."""
    missing = torch.isnan(value) if value.is_floating_point() else torch.zeros_like(value).bool()
    return missing.flatten(1).any(-1) if missing.dim() > 1 else missing


def refuse_all_summed(drawn: TensorDict, sites: Sites, what: str) -> None:
    """A guide that leaves every site out draws from the exact posterior, and has no density of its own."""
    if not drawn:
        raise ValueError(
            f"expected a guide that draws latent sites for {what}, got one that leaves out {sorted(sites.latent)}, which "
            "are summed over exactly: there is nothing to judge"
        )


def refuse_local(guide: nn.Module, what: str) -> None:
    """New rows need an encoder."""
    if getattr(guide, "is_unamortized", False):
        raise ValueError(
            f"expected an amortized guide for {what}, which encodes new rows, got a local one that serves only its own "
            "rows; pass the guide that it came from"
        )
