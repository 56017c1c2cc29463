r"""What several diagnostics do with particles: cut, score site by site, score under the guide,
replicate rows.
"""

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

import torch
from torch import Tensor, nn

from ppvae.data.chunks import CHUNK_NUMBERS, numbers_per_row
from ppvae.problem.guide_density import log_guide_at, log_guide_of
from ppvae.problem.problem import missing_as
from ppvae.story import Sites, TensorDict, num_rows_of, program_of

MAX_CHUNK_ROWS = 1000


def _num_chunk_rows(batch: TensorDict, guide: nn.Module | None, num_particles: int) -> int:
    """Rows of which `num_particles` particles fit in a chunk; all of them for a guide that serves
    no fewer.
    """
    if getattr(guide, "is_unamortized", False):
        return num_rows_of(batch)
    fit = CHUNK_NUMBERS // (numbers_per_row(batch) * num_particles)
    return max(1, min(MAX_CHUNK_ROWS, fit))


def chunks(
    batch: TensorDict, guide: nn.Module | None, num_particles: int
) -> Iterator[tuple[slice, TensorDict]]:
    """Cut a batch into pieces that `num_particles` particles of fit in memory, with their
    places.
    """
    step = _num_chunk_rows(batch, guide, num_particles)
    for start in range(0, num_rows_of(batch), step):
        where = slice(start, start + step)
        yield where, {k: v[where] for k, v in batch.items()}


def log_prob_by_site(
    story: nn.Module, batch: TensorDict, latents: TensorDict, sites: Sites
) -> TensorDict:
    """log p of every site given its parents, site -> `(S, B)`, in nats; missing entries do not
    count.

    Arguments:
        story: The story.
        batch: Rows, name -> `(B, *event)`.
        latents: Every latent site, name -> `(S, B, *row)`.
        sites: The story's sites.
    """
    return program_of(story).score(batch, latents, sites).by_site


def replicate(
    story: nn.Module,
    batch: TensorDict,
    latents: TensorDict,
    sites: Sites,
    given: Sequence[str] = (),
) -> TensorDict:
    """Draw the observed sites anew, given latent draws: one replicate of the rows for each
    particle.

    No observed value can come back: the story runs on the latent draws and covariates alone.
    Entries that the data miss are missing in the replicates too.

    Arguments:
        story: The story.
        batch: Rows, name -> `(B, *event)`; only their covariates, their missing entries, and
            `given` count.
        latents: Every latent site, name -> `(S, B, *row)`; observed sites that some rows miss may
            stand among them, and are then held there and not drawn anew.
        sites: The story's sites.
        given: Observed sites to hold at their data.

    Returns:
        Observed site -> `(S, B, *row)`.
    """
    held = {name: batch[name] for name in given}
    drawn = program_of(story).generate(batch, latents, sites, held)
    names = [n for n in sites.observed if n not in given and n not in latents]
    return {n: missing_as(drawn[n], batch.get(n)) for n in names}


def inputs_of(story: nn.Module, batch: TensorDict) -> TensorDict:
    """What a story needs to generate rows beside these."""
    return program_of(story).inputs(batch)


def unknown_rows(value: Tensor) -> Tensor:
    """Rows of an observed site that are missing, `(B,)`: there the site is latent and counts as no
    observation.
    """
    missing = torch.isnan(value) if value.is_floating_point() else torch.zeros_like(value).bool()
    return missing.flatten(1).any(-1) if missing.dim() > 1 else missing


def refuse_all_summed(drawn: TensorDict, sites: Sites, what: str) -> None:
    """A guide that leaves every site out draws from the exact posterior, and has no density of its
    own.
    """
    if not drawn:
        raise ValueError(
            f"expected a guide that draws latent sites for {what}, got one that leaves out "
            f"{sorted(sites.latent)}, which are summed over exactly: there is nothing to judge"
        )


def refuse_local(guide: nn.Module, what: str) -> None:
    """New rows need an encoder."""
    if getattr(guide, "is_unamortized", False):
        raise ValueError(
            f"expected an amortized guide for {what}, which encodes new rows, got a local one "
            "that serves only its own rows; pass the guide that it came from"
        )
