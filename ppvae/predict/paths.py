r"""Where a walk through the latent numbers of one row goes: one number at a time, all else as the row has it."""

__all__ = ["Stops", "stops"]

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor, nn

from ppvae.problem.weights import draw_all, refuse_global
from ppvae.story import (
    Sites,
    TensorDict,
    has_missing,
    num_rows_of,
    seeded_eval,
    simulate,
    split_batch,
)
from ppvae.story.validation import parent_sites

from .decode import Walk
from .decoder import paired, wanted_of

NUM_SIMULATED = 1000  # rows of the story's own that tell how far a latent number reaches


@dataclass(frozen=True)
class Stops:
    """Stops of walks along D latent numbers, T stops each.

    Arguments:
        latents: Site -> its values `(D * T, *row)`, walk after walk; feed them to `ppvae.traverse`.
        covariates: Name -> `(D * T, *)`, likewise.
        numbers: Which of the row's latent numbers are walked, `(D,)`, as they stand side by side in :math:`u`, where each
            support is mapped to real numbers.
        shapes: Site -> the shape of its numbers in :math:`u`, in the order in which they stand there.
    """

    latents: TensorDict
    covariates: TensorDict
    numbers: Tensor
    shapes: dict[str, Size]


def stops(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    row: int = 0,
    given: Sequence[str] = (),
    num_steps: int = 9,
    max_numbers: int = 10,
    share: float = 0.98,
    num_particles: int = 100,
    seed: int = 0,
) -> Stops:
    """Choose walks that show what the latent numbers of a story do: from a row, along the numbers that tell rows apart.

    Each walk moves one latent number, at equal steps of probability, over the range that it has in rows of the story's own; all
    others stay at the row's posterior means. The numbers are those whose posterior means differ most over the data, against
    their spread in the story. Discrete sites stay at their most frequent draw, observed sites that others depend on
    at the row's own value.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        row: The row from which the walks start, counted from 0.
        given: Other observed sites to hold at the row's own value, such as categories, which have no mean.
        num_steps: Stops of a walk, T.
        max_numbers: Walks, at most.
        share: Probability between the outermost stops.
        num_particles: Draws of each row, for its posterior mean.
        seed: Seed of all draws.

    Raises:
        ValueError: If the data or the guide do not fit the story, there is no such row, it misses what it is to hold, the
            story has global or no continuous latent sites, there are fewer than two steps, or the share is not
            between 0 and 1.
    """
    if num_steps < 2 or not 0 < share < 1 or max_numbers < 1:
        raise ValueError(
            f"expected at least two steps, one number and a share in (0, 1), got {num_steps}, {max_numbers} and {share}"
        )
    batch, sites = paired(story, guide, data, num_particles)
    refuse_global(sites, "walks through the numbers of a row")
    wanted_of(sites, given)
    walk = Walk.of(sites)
    if not 0 <= row < num_rows_of(batch):
        raise ValueError(
            f"expected a row from 0 to {num_rows_of(batch) - 1} to start at, got {row}"
        )
    here = {name: value[row : row + 1] for name, value in batch.items()}
    centres, _ = walk.centres(story, guide, batch, sites, num_particles, seed)  # (B, d)
    own = _own(walk, story, here, seed).to(centres)  # (NUM_SIMULATED, d)
    told_apart = centres.std(0, correction=0) / own.std(0)
    numbers = told_apart.argsort(descending=True)[:max_numbers]
    chances = torch.linspace((1 - share) / 2, (1 + share) / 2, num_steps).to(own)
    reached = own.quantile(chances, dim=0)  # (T, d)
    u = centres[row].repeat(len(numbers), num_steps, 1)  # (D, T, d)
    for place, number in enumerate(numbers.tolist()):
        u[place, :, number] = reached[:, number]
    latents = walk.values(u.flatten(0, 1).unsqueeze(0), None)
    held = _held(story, guide, here, sites, given, num_particles, seed)
    stay, covariates = (
        _repeated(v, len(numbers) * num_steps) for v in (held, split_batch(story, here)[1])
    )
    return Stops(
        {k: v[0] for k, v in latents.items()} | stay, covariates, numbers, walk.local.shapes
    )


def _own(walk: Walk, story: nn.Module, here: TensorDict, seed: int) -> Tensor:
    """The latent numbers of rows that the story generates under a row's covariates, `(n, d)`."""
    covariates = _repeated(split_batch(story, here)[1], NUM_SIMULATED)
    return walk.local.flatten(simulate(story, NUM_SIMULATED, seed=seed, **covariates))


def _held(
    story: nn.Module,
    guide: nn.Module,
    here: TensorDict,
    sites: Sites,
    given: Collection[str],
    num_draws: int,
    seed: int,
) -> TensorDict:
    """Values `(1, *row)` of what is not walked, and that other sites may depend on."""
    with torch.no_grad(), seeded_eval(seed, story, guide):
        drawn = draw_all(story, guide, here, num_draws, sites).values
    frequent = {n: _most_frequent(v) for n, v in drawn.items() if sites[n].is_discrete}
    parents = parent_sites(story, split_batch(story, here)[1], 2) | set(given)
    held = {n: here[n] for n in sites.observed if n in parents} | frequent
    missing = sorted(n for n, value in held.items() if has_missing(value))
    if missing:
        raise ValueError(
            f"expected a row that has {missing}, which are held at its own values, got one that misses them; start at "
            "another row"
        )
    return held


def _most_frequent(draws: Tensor) -> Tensor:
    """Of draws `(S, 1, *row)` the one that comes most often, `(1, *row)`."""
    values, counts = draws.unique(dim=0, return_counts=True)
    return values[counts.argmax()]


def _repeated(values: TensorDict, num: int) -> TensorDict:
    return {name: value.repeat(num, *(1,) * (value.dim() - 1)) for name, value in values.items()}
