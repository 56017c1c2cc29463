r"""Posterior means of the latent sites, row by row, and how much they vary over rows."""

__all__ = ["ACTIVE_VARIANCE", "embed", "posterior_means", "variance_over_rows"]

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.estimate import Estimate
from ppvae.problem import Problem
from ppvae.story import TensorDict

# Variance over rows above which a posterior mean counts as active, in the site's unit, squared
# (Burda et al., 2016).
ACTIVE_VARIANCE = 0.01


def embed(
    story: nn.Module, guide: nn.Module, data: Any, *, num_particles: int = 100, seed: int = 0
) -> dict[str, Estimate]:
    """The posterior mean of every latent site, row by row: the guide's, or the exact one where it
    leaves a site out.

    The mean of a discrete site is that of its values: a probability for a coin, an expected count
    for a count, of little meaning for a category.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_particles: Draws of each row, S.
        seed: Seed of the draws.

    Returns:
        Latent site -> estimate `(B, *row)` in the site's own unit; a global site has its own shape.
        A finite site that some rows miss, such as a label, is among them.

    Raises:
        ValueError: If the data or the guide do not fit the story, or `num_particles` is below 1.
    """
    problem = Problem.of(story, guide, data)
    return posterior_means(
        problem, num_particles, seed=seed, global_names=problem.sites.global_latent
    )


def posterior_means(
    problem: Problem,
    num_particles: int,
    *,
    seed: int,
    global_names: Collection[str] = (),
    transform: Callable[[TensorDict], TensorDict] = dict,
) -> dict[str, Estimate]:
    """Means over the guide's draws, streamed over rows and particles.

    Arguments:
        problem: Story, guide and rows.
        num_particles: Draws of each row, S.
        seed: Seed of the draws.
        global_names: Names, of those that `transform` gives, that have one value for all rows.
        transform: From draws, site -> `(S, B, *row)`, to what is averaged, name -> `(S, B, *)`.

    Returns:
        Name -> estimate `(B, *)`, or `(*,)` where it is global.

    Raises:
        ValueError: If `num_particles` is below 1.
    """
    if num_particles < 1:
        raise ValueError(f"expected at least one particle, got num_particles={num_particles}")
    parts: list[dict[str, Estimate]] = []
    with torch.no_grad(), problem.eval_mode(seed):
        for piece in problem.pieces():
            running: dict[str, _RunningMean] = {}
            for size in piece.particle_sizes(num_particles):
                for name, value in transform(piece.draw_all(size).values).items():
                    running.setdefault(name, _RunningMean()).add(value)
            parts.append({name: mean.estimate() for name, mean in running.items()})
    # The guide of a global site does not look at the rows: the draws of one piece tell all.
    return {
        name: parts[0][name] if name in global_names else Estimate.cat([p[name] for p in parts])
        for name in parts[0]
    }


def variance_over_rows(means: Estimate) -> Estimate:
    """Variance over rows of posterior means, `(B, *row)` -> `(*row)`, less what the Monte Carlo
    noise of the means adds.

    Its standard error comes from the rows' fourth moment.
    """
    deviation = (means.value - means.value.mean(0)).square()
    correction = len(deviation) / (len(deviation) - 1)
    squares = Estimate.of_draws(correction * deviation - means.std_error.square())
    return Estimate(squares.value.clamp(min=0), torch.nan_to_num(squares.std_error))


class _RunningMean:
    """Mean and standard error of draws that arrive in pieces.

    Source:
        T. Chan, G. Golub, R. LeVeque (1979). Updating formulae and a pairwise algorithm for
        computing sample variances.
    """

    mean: Tensor
    squares: Tensor

    def __init__(self) -> None:
        self.count = 0

    def add(self, draws: Tensor) -> None:
        """Add `(S, *)` more draws."""
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
