r"""Means of what a guide draws, row by row, with their errors."""

__all__ = ["moments"]

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from ppvae.data.chunks import row_chunks
from ppvae.estimate import Estimate
from ppvae.problem.weights import draw_all
from ppvae.story import Sites, TensorDict, seeded_eval

from .decoder import particle_steps


def moments(
    story: nn.Module,
    guide: nn.Module,
    batch: TensorDict,
    sites: Sites,
    *,
    num_particles: int,
    seed: int,
    shared: Collection[str],
    view: Callable[[TensorDict], TensorDict] = dict,
) -> dict[str, Estimate]:
    """The mean of what stands in the guide's draws, streamed over rows and particles.

    Arguments:
        story: The story.
        guide: Its guide.
        batch: Name -> `(B, *event)`.
        sites: The story's sites under this batch.
        num_particles: Draws of each row, S.
        seed: Seed of the draws.
        shared: Names, of those that `view` gives, that do not belong to rows.
        view: What is averaged: of draws, site -> `(S, B, *row)`, to name -> `(S, B, *)`.

    Returns:
        Name -> estimate `(B, *)`, or `(*,)` where it is shared.
    """
    parts: list[dict[str, Estimate]] = []
    with torch.no_grad(), seeded_eval(seed, story, guide):
        for rows in row_chunks(batch, guide):
            found: dict[str, _Moments] = {}
            for size in particle_steps(rows, num_particles):
                drawn = draw_all(story, guide, rows, size, sites).values
                for name, value in view(drawn).items():
                    found.setdefault(name, _Moments()).add(value)
            parts.append({name: m.estimate() for name, m in found.items()})
    # The guide of a global site does not look at the rows: the draws of one chunk tell all.
    return {
        name: parts[0][name] if name in shared else Estimate.cat([p[name] for p in parts])
        for name in parts[0]
    }


class _Moments:
    """Mean and standard error of draws that arrive in pieces (T. Chan, G. Golub, R. LeVeque,
    1979)."""

    mean: Tensor
    squares: Tensor

    def __init__(self) -> None:
        self.count = 0

    def add(self, draws: Tensor) -> None:
        """Take `(S, *)` more draws."""
        draws = draws if draws.is_floating_point() else draws.to(torch.get_default_dtype())
        count, mean = len(draws), draws.mean(0)
        squares = (draws - mean).square().sum(0)
        if self.count:
            shift, total = mean - self.mean, self.count + count
            squares = self.squares + squares + shift.square() * (self.count * count / total)
            mean = self.mean + shift * (count / total)
        self.count, self.mean, self.squares = self.count + count, mean, squares

    def estimate(self) -> Estimate:
        """The mean `(*,)`; its standard error is NaN for a single draw."""
        if self.count == 1:
            return Estimate(self.mean, torch.full_like(self.mean, torch.nan))
        return Estimate(self.mean, (self.squares / (self.count - 1) / self.count).sqrt())
