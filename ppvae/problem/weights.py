r"""log p(x, z) − log q(z | x), particle by particle and row by row.

The one place where a story and a guide are scored together. Every bound, gap and diagnostic of the
library is a summary of what `score` gives.
"""

__all__ = [
    "Scores",
    "check_pair",
    "draw",
    "draw_all",
    "enumerated_sites",
    "log_weights",
    "refuse_global",
    "score",
]

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data import preview, to_batch
from ppvae.data.chunks import particle_step, pieces, row_chunks
from ppvae.story import (
    Batch,
    LogJoint,
    SampleRows,
    Sites,
    TensorDict,
    as_batch,
    check_data,
    check_guide_sites,
    eval_mode,
    local_params,
    num_rows_of,
    partially_observed,
    particle_plate,
    run,
    seeded,
    seeded_eval,
    trace_sites,
)


@dataclass(frozen=True)
class Scores:
    """What S particles of each of B rows weigh.

    Arguments:
        latents: Latent site that the guide draws -> `(S, B, *row)`; a global site `(S, *event)`.
        log_joint: log p(x, z) of the row, `(S, B)`, in nats, summed over the finite sites that the
            guide leaves out.
        log_guide: log q(z | x) of the row, `(S, B)`, in nats.
        log_shared: log p − log q of the global sites, `(S,)`, in nats; 0 without any.
    """

    latents: TensorDict
    log_joint: Tensor
    log_guide: Tensor
    log_shared: Tensor

    @property
    def log_weights(self) -> Tensor:
        """log w = log p(x, z) − log q(z | x), `(S, B)`, in nats."""
        return self.log_joint - self.log_guide


def draw(
    guide: nn.Module,
    batch: Batch,
    num_particles: int,
    sites: Sites,
    around: Callable[[int | None], AbstractContextManager[Any]] = nullcontext,
) -> SampleRows:
    """Run the guide under a plate of particles.

    Arguments:
        guide: Any Pyro guide, called with the batch.
        batch: Name -> `(B, *event)`.
        num_particles: S.
        sites: The story's sites under this batch.
        around: A handler around each run of the guide: called with None where one run draws all
            particles, else with the particle's number.

    Returns:
        The handler that holds what was drawn and its log density.
    """
    batch = as_batch(batch)
    dim, num_rows = sites.particle_dim, num_rows_of(batch)
    drawn = SampleRows(dim, num_particles, num_rows)
    try:
        plate = particle_plate(num_particles, dim)
        with local_params(guide), around(None), drawn, plate:
            run(guide, batch)
    except (RuntimeError, ValueError, IndexError):
        if hasattr(guide, "posterior"):
            raise  # made here: it knows particles
        # Somebody else's guide need not know them: one run for each, with no dimension for them.
        each = []
        for particle in range(num_particles):
            each.append(SampleRows(dim, 1, num_rows))
            with local_params(guide), around(particle), each[-1]:
                run(guide, batch)
        drawn = SampleRows.stacked(each)
    check_guide_sites(drawn, sites)
    return drawn


def score(
    story: nn.Module,
    guide: nn.Module,
    batch: Batch,
    num_particles: int = 1,
    *,
    sites: Sites | None = None,
) -> Scores:
    """Draw particles from the guide and score them under both programs.

    Arguments:
        story: The story.
        guide: Any Pyro guide for it.
        batch: Rows, name -> `(B, *event)`.
        num_particles: S.
        sites: The story's sites, if already known.

    Returns:
        The particles and their scores; gradients flow.

    Raises:
        ValueError: If the guide misses a latent site, or has one that the story lacks.
    """
    sites = trace_sites(story, batch) if sites is None else sites
    drawn = draw(guide, batch, num_particles, sites)
    log_joint, log_prior_shared = LogJoint(story, batch, sites).split(drawn.values)
    log_guide = drawn.local.to(log_joint)
    return Scores(
        drawn.values,
        log_joint.expand_as(log_guide),
        log_guide,
        log_prior_shared - drawn.shared.to(log_joint),
    )


def draw_all(
    story: nn.Module, guide: nn.Module, batch: Batch, num_particles: int, sites: Sites
) -> SampleRows:
    """As `draw`, with sites that the guide leaves out, or some rows miss, drawn from their exact
    p(y | x, z).

    Arguments:
        story: The story.
        guide: Any Pyro guide for it.
        batch: Rows, name -> `(B, *event)`.
        num_particles: S.
        sites: The story's sites under this batch.

    Returns:
        Every latent site's draws and log densities; those of several sites that were left out stand
        in `by_site` under one name, joined by `+`.
    """
    drawn = draw(guide, batch, num_particles, sites)
    log_joint = LogJoint(story, batch, sites)
    absent = [n for n in (*sites.latent, *log_joint.partly) if n not in drawn.values]
    if not absent:
        return drawn
    num_draws = 1 if drawn.values else num_particles
    drawn.values, log_conditional = log_joint.complete(drawn.values, num_draws)
    drawn.by_site["+".join(absent)] = log_conditional
    drawn.is_local["+".join(absent)] = True
    return drawn


def log_weights(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    num_particles: int,
    *,
    seed: int | None = None,
) -> Tensor:
    r"""Importance weights log w = log p(x, z) − log q(z | x), streamed over rows in bounded memory.

    Arguments:
        story: The story.
        guide: Any Pyro guide for it.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_particles: S.
        seed: Seed of the draws; None uses the global generator.

    Returns:
        `(S, B)`, in nats, without gradients.

    Raises:
        ValueError: If the story has global latent sites: its rows are not independent.
    """
    batch = to_batch(story, data)
    sites = check_pair(story, guide, batch)
    refuse_global(sites, "importance weights per row")

    def weigh(rows: TensorDict) -> Tensor:
        sizes = pieces(num_particles, particle_step(rows, num_rows_of(rows)))
        return torch.cat([score(story, guide, rows, k, sites=sites).log_weights for k in sizes])

    with torch.no_grad(), seeded_eval(seed, story, guide):
        columns = [weigh(rows) for rows in row_chunks(batch, guide)]
    return torch.cat(columns, 1)


def check_pair(story: nn.Module, guide: nn.Module, batch: Batch) -> Sites:
    """Check that a guide draws exactly the story's latent sites, and register lazy parameters of
    both.

    Arguments:
        story: The story.
        guide: Its guide.
        batch: Rows; local guides are checked on all of theirs.

    Returns:
        The story's sites under this batch.

    Raises:
        ValueError: If the data do not fit the story; naming the sites that are missing, unknown, or
            of the wrong shape.
    """
    if not isinstance(guide, torch.nn.Module):
        raise ValueError(
            f"expected a guide that is a module, got a {type(guide).__name__}; ppvae.adopt(model, "
            "guide) makes a plain Pyro pair into one"
        )
    batch = as_batch(batch)
    sites = check_data(story, batch)
    few = batch if getattr(guide, "is_unamortized", False) else {k: v[:2] for k, v in batch.items()}
    with torch.no_grad(), eval_mode(story), eval_mode(guide), seeded(0, story, guide):
        score(story, guide, few, 1, sites=sites)
    return sites


def enumerated_sites(story: nn.Module, guide: nn.Module, data: Any) -> list[str]:
    """Names of the discrete sites that scoring sums over: the guide leaves them out, or some rows
    miss them.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes; of a stream the first ones are looked
            at.
    """
    batch = to_batch(story, preview(data))
    few = batch if getattr(guide, "is_unamortized", False) else {k: v[:2] for k, v in batch.items()}
    sites = check_pair(story, guide, few)
    with torch.no_grad(), seeded_eval(0, story, guide):
        drawn = draw(guide, few, 1, sites).values
    return [n for n in sites.latent if n not in drawn] + list(
        partially_observed(story, batch, sites)
    )


def refuse_global(sites: Sites, what: str) -> None:
    """Per-row quantities need rows that are independent given the parameters."""
    shared = sorted(sites.global_latent)
    if shared:
        raise ValueError(
            f"expected a story whose latent sites are all inside the plate 'data' for {what}, got "
            f"the global sites {shared}; make them parameters of the story"
        )
