r"""Where rows lie: the posterior means of their latent sites."""

__all__ = ["embed"]

from typing import Any

import torch
from torch import Tensor, nn

from ppvae.chunks import row_chunks
from ppvae.estimate import Estimate
from ppvae.story import measuring
from ppvae.weights import draw_all

from .leaves import paired, particle_steps


def embed(
    story: nn.Module, guide: nn.Module, data: Any, *, num_particles: int = 100, seed: int = 0
) -> dict[str, Estimate]:
    """The posterior mean of every latent site, row by row: the guide's, or the exact one where it leaves a site out.

    The mean of a discrete site is that of its numbers: a probability for a coin, an expected count
    for a count, of little meaning for a category.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_particles: Draws of each row, S.
        seed: Seed of the draws.

    Returns:
        Latent site -> estimate `(B, *row)` in the site's own unit; a global site has its own shape. A finite site that
        some rows miss, such as a label, stands there too.

    Raises:
        ValueError: If the data or the guide do not fit the story, or `num_particles` is below 1.
    """
    batch, sites = paired(story, guide, data, num_particles)
    parts: list[dict[str, Estimate]] = []
    with torch.no_grad(), measuring(seed, story, guide):
        for rows in row_chunks(batch, guide):
            moments: dict[str, _Moments] = {}
            for size in particle_steps(rows, num_particles):
                for name, value in draw_all(story, guide, rows, size, sites).values.items():
                    moments.setdefault(name, _Moments()).add(value)
            parts.append({name: m.estimate() for name, m in moments.items()})
    # The guide of a global site does not look at the rows: the draws of one chunk tell all.
    shared = sites.global_latent
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
