r"""Holes filled once: the best guess of what rows miss, and how sure it is."""

__all__ = ["fill"]

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ppvae.data import as_rows
from ppvae.story import Site, TensorDict

from .decoder import paired
from .impute import drawn_holes

FROZEN = 0  # the seed with which dynamic pixels are drawn once, everywhere


def fill(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    num_draws: int = 100,
    share: float = 0.9,
    seed: int = 0,
) -> TensorDict:
    """Fill what rows miss with the mean of the draws of `impute`, and say between which values it lies.

    A category, or a count up to a bound, is filled with the value that was drawn most often. One chunk of rows is drawn at a
    time, so that memory does not grow with `num_draws` times all rows.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows with NaN where a value is missing, anything that `ppvae.data.as_rows` takes.
        num_draws: Draws of each row, S.
        share: Probability of the interval, the same on both sides.
        seed: Seed of the draws.

    Returns:
        The data under their names, `(B, *row)`, in their own unit and number type: entries that are there as they
        are, the others filled. For each site that missed entries, also the ends of the interval as `NAME_lower` and
        `NAME_upper`, or for a category the share of the draws that agree as `NAME_share` (1 where it was there), all
        `(B, *row)`.

    Raises:
        ValueError: As `impute`; or if `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"expected a share in (0, 1), got {share}")
    rows = dict(as_rows(data).binarize_once(FROZEN).tensors)
    batch, sites = paired(story, guide, rows, num_draws)
    parts = [
        {name: _summary(draws, sites[name], share) for name, draws in drawn.items()}
        for drawn in drawn_holes(story, guide, batch, sites, num_draws, seed)
    ]
    filled = dict(rows)
    for name, summary in parts[0].items():
        held = rows[name]
        for ending in summary:
            found = torch.cat([p[name][ending] for p in parts]).to(held)
            there = torch.ones_like(held) if ending == "_share" else held
            filled[name + ending] = torch.where(held.isnan(), found, there)
    return filled


def _summary(draws: Tensor, site: Site, share: float) -> TensorDict:
    """Draws `(S, B, *row)` as `(B, *row)` for each ending of the name."""
    if _is_category(site):
        value = draws.mode(0).values
        return {"": value, "_share": (draws == value).to(draws).mean(0)}
    ordered = draws.sort(0).values
    ends = ((1 - share) / 2, (1 + share) / 2)
    lower, upper = (_quantile(ordered, chance) for chance in ends)
    return {"": draws.mean(0), "_lower": lower, "_upper": upper}


def _quantile(ordered: Tensor, chance: float) -> Tensor:
    """The quantile over the first dimension, as `torch.quantile`, which takes 16 million numbers at most."""
    place = chance * (len(ordered) - 1)
    below = int(place)
    return torch.lerp(ordered[below], ordered[min(below + 1, len(ordered) - 1)], place - below)


def _is_category(site: Site) -> bool:
    support: Any = site.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return isinstance(support, constraints.integer_interval)
