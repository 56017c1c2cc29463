r"""Latent traversals of a row: one latent dimension moves, all others stay."""

__all__ = ["LatentTraversals", "latent_traversals"]

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor, nn

from ppvae.problem import Problem
from ppvae.problem.generation import observed_except
from ppvae.story import TensorDict, has_missing, simulate
from ppvae.story.validation import parent_sites

from .latent_space import LatentSpace

NUM_SIMULATED = 1000  # rows of the story's own that tell over which range a latent dimension varies


@dataclass(frozen=True)
class LatentTraversals:
    """Traversals of D latent dimensions, T points each.

    Arguments:
        latents: Site -> its values `(D * T, *row)`, one traversal after the other; pass them to
            `ppvae.traverse`.
        covariates: Name -> `(D * T, *)`, likewise.
        dims: Positions of the traversed dimensions in :math:`u`, `(D,)`, where each support is
            mapped to real numbers and the sites stand side by side.
        shapes: Site -> its shape in :math:`u`, in the order in which the sites stand there.
    """

    latents: TensorDict
    covariates: TensorDict
    dims: Tensor
    shapes: dict[str, Size]


def latent_traversals(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    row: int = 0,
    given: Sequence[str] = (),
    num_steps: int = 9,
    max_dims: int = 10,
    level: float = 0.98,
    num_particles: int = 100,
    seed: int = 0,
) -> LatentTraversals:
    """Choose traversals that show what the latent dimensions of a story do: from a row, along those
    that tell rows apart.

    Each traversal moves one latent dimension, at equal steps of probability, over the range that it
    has in rows of the story's own; all others stay at the row's posterior means. The dimensions are
    those whose posterior means differ most over the data, against their spread in the story.
    Discrete sites stay at their most frequent draw, observed sites that others depend on at the
    row's own value.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        row: The row from which the traversals start, counted from 0.
        given: Other observed sites to hold at the row's own value, such as categories, which have
            no mean.
        num_steps: Points of a traversal, T.
        max_dims: Traversals, at most.
        level: Probability between the outermost points.
        num_particles: Draws of each row, for its posterior mean.
        seed: Seed of all draws.

    Raises:
        ValueError: If the data or the guide do not fit the story, there is no such row, it misses
            what it is to hold, the story has global or no continuous latent sites, there are fewer
            than two steps, or the level is not between 0 and 1.
    """
    if num_steps < 2 or not 0 < level < 1 or max_dims < 1:
        raise ValueError(
            f"expected at least two steps, one dimension and a level in (0, 1), got {num_steps}, "
            f"{max_dims} and {level}"
        )
    problem = Problem.of(story, guide, data, independent_for="traversals from a row")
    observed_except(problem, given)  # refuses what is no observed site
    space = LatentSpace.of(problem.sites)
    if not 0 <= row < problem.num_rows:
        raise ValueError(f"expected a row from 0 to {problem.num_rows - 1} to start at, got {row}")
    start = problem.rows(slice(row, row + 1))
    means, _ = space.posterior_means(problem, num_particles, seed)  # (B, d)
    covariates = start.covariates
    prior_draws = space.local.flatten(
        simulate(story, NUM_SIMULATED, seed=seed, **_repeat(covariates, NUM_SIMULATED))
    ).to(means)  # (NUM_SIMULATED, d)
    relative_spread = means.std(0, correction=0) / prior_draws.std(0)
    dims = relative_spread.argsort(descending=True)[:max_dims]
    probabilities = torch.linspace((1 - level) / 2, (1 + level) / 2, num_steps).to(prior_draws)
    quantiles = prior_draws.quantile(probabilities, dim=0)  # (T, d)
    u = means[row].repeat(len(dims), num_steps, 1)  # (D, T, d)
    for traversal, dim in zip(u, dims.tolist(), strict=True):
        traversal[:, dim] = quantiles[:, dim]
    latents = space.unflatten(u.flatten(0, 1).unsqueeze(0))
    num_points = len(dims) * num_steps
    fixed = _repeat(_fixed_values(start, given, num_particles, seed), num_points)
    return LatentTraversals(
        latents={name: value[0] for name, value in latents.items()} | fixed,
        covariates=_repeat(covariates, num_points),
        dims=dims,
        shapes=space.local.shapes,
    )


def _fixed_values(start: Problem, given: Collection[str], num_draws: int, seed: int) -> TensorDict:
    """Values `(1, *row)` of what does not move, and that other sites may depend on."""
    with torch.no_grad(), start.eval_mode(seed):
        drawn = start.draw_all(num_draws).values
    modes = {n: _mode(v) for n, v in drawn.items() if start.sites[n].is_discrete}
    parents = parent_sites(start.story, start.covariates, 2) | set(given)
    fixed = {n: start.batch[n] for n in start.sites.observed if n in parents} | modes
    missing = sorted(n for n, value in fixed.items() if has_missing(value))
    if missing:
        raise ValueError(
            f"expected a row that has {missing}, which are held at its own values, got one that "
            "misses them; start at another row"
        )
    return fixed


def _mode(draws: Tensor) -> Tensor:
    """Of draws `(S, 1, *row)` the most frequent one, `(1, *row)`."""
    values, counts = draws.unique(dim=0, return_counts=True)
    return values[counts.argmax()]


def _repeat(values: TensorDict, num: int) -> TensorDict:
    return {name: value.repeat(num, *(1,) * (value.dim() - 1)) for name, value in values.items()}
