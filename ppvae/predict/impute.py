r"""Missing values: draws of them, and the best guess with an interval."""

__all__ = ["impute", "impute_point", "sites_with_missing"]

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ppvae.data import as_rows
from ppvae.problem import Problem
from ppvae.problem.generation import decode
from ppvae.story import Site, Sites, TensorDict, has_missing


def impute(
    story: nn.Module, guide: nn.Module, data: Any, *, num_draws: int = 100, seed: int = 0
) -> TensorDict:
    r"""Draw what rows miss, :math:`x_{\text{mis}} \sim \int p(x_{\text{mis}} | z)\, q(z |
    x_{\text{obs}})\, dz`.

    Each draw has latent values of its own, so the draws' spread is the whole uncertainty: of the
    latent sites and of the missing entries given them. It is right as far as the guide is, and
    where the chance to be missing does not depend on the missing value (missing at random).

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows with NaN where a value is missing, anything that `ppvae.data.as_rows` takes.
        num_draws: Draws of each row, S.
        seed: Seed of the draws.

    Returns:
        Every observed site that misses entries -> `(S, B, *row)`, in the data's own unit: observed
        entries as they are, the others drawn. Its mean over the first dimension is the best guess
        by squared error, its quantiles are intervals.

    Raises:
        ValueError: If the data or the guide do not fit the story, nothing is missing, or
            `num_draws` is below 1.

    Source:
        P.-A. Mattei, J. Frellsen (2019). MIWAE: deep generative modelling and imputation of
        incomplete data sets.
    """
    parts = list(_imputed(Problem.of(story, guide, data), num_draws, seed))
    return {name: torch.cat([p[name] for p in parts], 1) for name in parts[0]}


def impute_point(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    num_draws: int = 100,
    level: float = 0.9,
    seed: int = 0,
) -> TensorDict:
    """Replace missing values by the mean of the draws of `impute`, with an equal-tailed interval.

    A category, or a count up to a bound, is replaced by the value that was drawn most often. Draws
    of a bounded number of rows are in memory at a time.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows with NaN where a value is missing, anything that `ppvae.data.as_rows` takes.
        num_draws: Draws of each row, S.
        level: Probability of the interval.
        seed: Seed of the draws.

    Returns:
        The data under their names, `(B, *row)`, in their own unit and number type: observed entries
        as they are, the others replaced. For each site with missing entries, also the ends of the
        interval as `NAME_lower` and `NAME_upper`, or for a category the share of the draws that
        agree as `NAME_share` (1 where it was observed), all `(B, *row)`.

    Raises:
        ValueError: As `impute`; or if `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level in (0, 1), got {level}")
    rows = dict(as_rows(data).binarize_once(seed=0).tensors)
    problem = Problem.of(story, guide, rows)
    parts = [
        {name: _summary(draws, problem.sites[name], level) for name, draws in drawn.items()}
        for drawn in _imputed(problem, num_draws, seed)
    ]
    completed = dict(rows)
    for name, summary in parts[0].items():
        data_values = rows[name]
        for suffix in summary:
            imputed = torch.cat([p[name][suffix] for p in parts]).to(data_values)
            observed = torch.ones_like(data_values) if suffix == "_share" else data_values
            completed[name + suffix] = torch.where(data_values.isnan(), imputed, observed)
    return completed


def sites_with_missing(sites: Sites, batch: TensorDict) -> list[str]:
    """Names of the observed sites that miss entries.

    Raises:
        ValueError: If there is none.
    """
    names = [name for name in sites.observed if has_missing(batch[name])]
    if not names:
        raise ValueError(
            "expected missing entries (NaN) at an observed site, got rows that miss none"
        )
    return names


def _imputed(problem: Problem, num_draws: int, seed: int) -> Iterator[TensorDict]:
    """What `impute` gives, for consecutive pieces of the rows: site -> `(S, b, *row)`."""
    if num_draws < 1:
        raise ValueError(f"expected at least one draw, got num_draws={num_draws}")
    names = sites_with_missing(problem.sites, problem.batch)
    given = [name for name in problem.sites.observed if name not in names]
    with torch.no_grad(), problem.eval_mode(seed):
        for piece in problem.pieces():
            parts: list[TensorDict] = []
            for size in piece.particle_sizes(num_draws):
                parts.append(decode(piece, piece.draw_all(size).values, given))
            yield {
                name: _replace_missing(piece.batch[name], torch.cat([p[name] for p in parts]))
                for name in names
            }


def _replace_missing(values: Tensor, draws: Tensor) -> Tensor:
    return torch.where(values.isnan(), draws.to(values), values)


def _summary(draws: Tensor, site: Site, level: float) -> TensorDict:
    """Draws `(S, B, *row)` as `(B, *row)`, by suffix of the site's name."""
    if _is_category(site):
        value = draws.mode(0).values
        return {"": value, "_share": (draws == value).to(draws).mean(0)}
    ordered = draws.sort(0).values
    lower, upper = (_quantile(ordered, p) for p in ((1 - level) / 2, (1 + level) / 2))
    return {"": draws.mean(0), "_lower": lower, "_upper": upper}


def _quantile(ordered: Tensor, probability: float) -> Tensor:
    """As `torch.quantile` over dimension 0, which takes 16 million numbers at most."""
    position = probability * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)


def _is_category(site: Site) -> bool:
    support: Any = site.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return isinstance(support, constraints.integer_interval)
