r"""Holes filled: draws of what rows miss."""

__all__ = ["drawn_holes", "holed_sites", "impute"]

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ppvae.data.chunks import row_chunks
from ppvae.problem.weights import draw_all
from ppvae.story import Sites, TensorDict, has_missing, seeded_eval

from .decoder import leaves, paired, particle_steps, value_of


def impute(
    story: nn.Module, guide: nn.Module, data: Any, *, num_draws: int = 100, seed: int = 0
) -> TensorDict:
    r"""Draw what rows miss, :math:`x_{\text{mis}} \sim \int p(x_{\text{mis}} | z)\, q(z | x_{\text{obs}})\, dz`.

    Each draw has latent values of its own, so the draws' spread is the whole uncertainty: of the latent sites
    and of the missing entries given them. It is right as far as the guide is, and where the chance to be missing
    does not depend on the missing value (missing at random).

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows with NaN where a value is missing, anything that `ppvae.data.as_rows` takes.
        num_draws: Draws of each row, S.
        seed: Seed of the draws.

    Returns:
        Every observed site that misses entries -> `(S, B, *row)`, in the data's own unit: entries that are there as they are,
        the others drawn. Its mean over the first dimension is the best guess by squared error, its quantiles are
        intervals.

    Raises:
        ValueError: If the data or the guide do not fit the story, nothing is missing, or `num_draws` is below 1.

    Source:
        P.-A. Mattei, J. Frellsen (2019). MIWAE: deep generative modelling and imputation of incomplete data sets.
    """
    batch, sites = paired(story, guide, data, num_draws)
    parts = list(drawn_holes(story, guide, batch, sites, num_draws, seed))
    return {name: torch.cat([p[name] for p in parts], 1) for name in parts[0]}


def drawn_holes(
    story: nn.Module,
    guide: nn.Module,
    batch: TensorDict,
    sites: Sites,
    num_draws: int,
    seed: int,
) -> Iterator[TensorDict]:
    """What `impute` gives, chunk by chunk of the rows: one at a time is in memory."""
    holed = holed_sites(sites, batch)
    whole = [name for name in sites.observed if name not in holed]
    with torch.no_grad(), seeded_eval(seed, story, guide):
        for rows in row_chunks(batch, guide):
            drawn: list[TensorDict] = []
            for size in particle_steps(rows, num_draws):
                latents = draw_all(story, guide, rows, size, sites).values
                drawn.append(leaves(story, rows, latents, sites, whole, holed, value_of))
            yield {name: _filled(rows[name], [d[name] for d in drawn]) for name in holed}


def holed_sites(sites: Sites, batch: TensorDict) -> list[str]:
    """Names of the observed sites that miss entries.

    Raises:
        ValueError: If there is none.
    """
    holed = [name for name in sites.observed if has_missing(batch[name])]
    if not holed:
        raise ValueError(
            "expected missing entries (NaN) at an observed site, got rows that miss none"
        )
    return holed


def _filled(rows: torch.Tensor, drawn: list[torch.Tensor]) -> torch.Tensor:
    """Rows `(B, *row)` with holes, and pieces of draws `(s, B, *row)`, to `(S, B, *row)`."""
    draws = torch.cat(drawn).to(rows)
    return torch.where(rows.isnan(), draws, rows)
