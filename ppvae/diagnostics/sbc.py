r"""Simulation-based calibration: does the guide rank the truth evenly among its own draws?

Draw :math:`(z, x)` from the story and :math:`L` values from the guide at :math:`x`. If the guide is
the posterior, :math:`z` is one more draw of it, and its rank is uniform, number by number.

What the ranks of the latent numbers cannot see: anything that the posteriors of all rows average
away. A guide that ignores the row and answers with the prior passes. The rank of log p(x | z), a
quantity of latents and row together, is therefore tested beside them.
"""

__all__ = ["SBC", "Quantity", "sbc"]

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.diagnostics.finding import Finding, Verdict, number_names
from ppvae.diagnostics.requirements import Pair
from ppvae.diagnostics.simulated_pairs import simulate_pairs
from ppvae.diagnostics.uniformity import RankStatistics, rank_among
from ppvae.problem import Problem
from ppvae.result import Result
from ppvae.story import TensorDict, num_rows_of

Quantity = Callable[[TensorDict, TensorDict], Tensor]
LOG_LIKELIHOOD = "log_likelihood"
ALPHA = 0.05
SURE = 2.0  # standard errors that a direction must span before it is named


@dataclass(frozen=True)
class SBC(Result):
    """Ranks of every latent number and test quantity, and whether they are uniform.

    Arguments:
        sbc_ranks: Of each latent number, named `site[index]`, then of each test quantity.
        num_latent: How many of them are latent numbers.
    """

    sbc_ranks: RankStatistics
    num_latent: int

    @property
    def p_value(self) -> float:
        """Probability of ranks as uneven as these from the exact posterior, over all quantities."""
        return self.sbc_ranks.p_value

    @property
    def verdict(self) -> Verdict:
        """`fail` if the ranks are not uniform at the 5 % level, all quantities together."""
        return "fail" if self.p_value < ALPHA else "pass"

    @property
    def worst(self) -> int:
        """Position of the least uniform quantity; a latent number, if one of them fails."""
        ranks, p = self.sbc_ranks, self.sbc_ranks.p_values
        distance = (ranks.ecdf - ranks.levels).abs().amax(-1)
        latent = torch.arange(len(p)) < self.num_latent
        failing = latent & (p * len(p) < ALPHA)
        among = failing if bool(failing.any()) else p <= p.min()
        return int(torch.where(among, distance, -1.0).argmax())

    def direction(self, index: int) -> str:
        """In words, how the guide is off in one quantity."""
        shift, spread = self.sbc_ranks.shift[index], self.sbc_ranks.spread[index]
        words = []
        if abs(float(shift.value)) > SURE * float(shift.std_error):
            side = "low" if float(shift.value) > 0 else "high"
            words.append(f"too {side} (mean rank {0.5 + float(shift.value):.2f}, not 0.50)")
        if abs(float(spread.value) - 1) > SURE * float(spread.std_error):
            side = "narrow" if float(spread.value) > 1 else "wide"
            words.append(f"too {side} (ranks' variance {float(spread.value):.2f}, not 1.00)")
        return " and ".join(words) or "of another shape"

    @property
    def findings(self) -> tuple[Finding]:
        """The quantity with the least uniform ranks."""
        name, direction = self.sbc_ranks.names[self.worst], self.direction(self.worst)
        fault = f"the guide is {direction} in {name}"
        if self.worst >= self.num_latent:
            fault = (
                f"the draws of {name} are {direction}, though each latent number by itself is even"
            )
        advice = f"{fault}: try a larger family or encoder, or train longer"
        name = "SBC, p-value of uniform ranks"
        return (Finding.of(name, self.p_value, f">= {ALPHA}", self.verdict, advice),)


def sbc(
    story: Pair,
    guide: nn.Module | None = None,
    data: Any = None,
    *,
    num_simulations: int = 1000,
    num_draws: int = 99,
    test_quantities: Mapping[str, Quantity] | None = None,
    seed: int = 0,
) -> SBC:
    """Rank the true latent values of simulated rows among draws of the guide.

    Arguments:
        story: The story, its latent sites all inside the plate `data` (or a `Problem` of story,
            guide and rows): continuous, constrained or discrete.
        guide: An amortized guide, any Pyro guide of the story.
        data: Rows that tell which sites are observed and lend their covariates and missing entries;
            None: the sites that no other depends on are observed.
        num_simulations: N, rows simulated, one encoder pass each.
        num_draws: L, draws of the guide for each.
        test_quantities: Name -> function of latents (site -> `(S, B, *row)`) and rows (name -> `(B,
            *event)`) that returns `(S, B)`; ranked beside the latent numbers. None:
            `log_likelihood`, which is log p(x | z).
        seed: Seed of simulation and draws.

    Returns:
        The ranks.

    Raises:
        ValueError: If the story has global latent sites, or a test quantity returns another shape
            or NaN.

    Source:
        S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman (2018). Validating Bayesian
        inference algorithms with simulation-based calibration.
        M. Modrák et al. (2023). Simulation-based calibration checking for Bayesian computation: the
        choice of test quantities shapes sensitivity.
    """
    pairs = simulate_pairs(story, guide, data, num_simulations, seed)
    quantities = dict(test_quantities or {})
    if test_quantities is None:
        quantities[LOG_LIKELIHOOD] = partial(_log_likelihood, pairs.problem)
    names = _names(pairs.truth, quantities)
    ranks = torch.empty(len(names), num_simulations, dtype=torch.long)
    with torch.no_grad(), pairs.problem.eval_mode(seed + 1):
        for rows, piece, truth in pairs.pieces(num_draws):
            draws = piece.draw_all(num_draws).values
            ranks[:, rows] = torch.cat(list(_ranks(truth, draws, piece.batch, quantities))).cpu()
    return SBC(RankStatistics(names, ranks, num_draws), len(names) - len(quantities))


def _ranks(
    truth: TensorDict, draws: TensorDict, batch: TensorDict, quantities: Mapping[str, Quantity]
) -> Iterator[Tensor]:
    """Ranks of a piece of the rows: of each site `(numbers, B)`, of each quantity `(1, B)`."""
    for name, value in truth.items():
        rank = rank_among(value, draws[name].to(value.dtype))
        yield rank.flatten(1).T if rank.dim() > 1 else rank[None]
    num_rows = num_rows_of(batch)
    num_draws = len(next(iter(draws.values())))
    one_draw = {name: value[None] for name, value in truth.items()}
    for name, quantity in quantities.items():
        of_truth = _checked(name, quantity(one_draw, batch), (1, num_rows))
        of_draws = _checked(name, quantity(draws, batch), (num_draws, num_rows))
        yield rank_among(of_truth[0], of_draws)[None]


def _checked(name: str, value: Tensor, shape: tuple[int, int]) -> Tensor:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"test quantity '{name}': expected a tensor (particles, rows) of shape {shape}, got "
            f"{got}"
        )
    if bool(torch.isnan(value).any()):
        raise ValueError(f"test quantity '{name}': expected numbers that can be ranked, got NaN")
    return value


def _log_likelihood(problem: Problem, latents: TensorDict, batch: TensorDict) -> Tensor:
    """log p(x | z), `(S, B)`, in nats."""
    log_p = problem.on(batch).log_joint_by_site(latents)
    return torch.stack([log_p[name] for name in problem.sites.observed]).sum(0)


def _names(truth: TensorDict, quantities: Mapping[str, Quantity]) -> tuple[str, ...]:
    names = number_names({name: value.shape[1:] for name, value in truth.items()})
    taken = sorted(set(names) & set(quantities))
    if taken:
        raise ValueError(f"expected test quantities named unlike the latent sites, got {taken}")
    return (*names, *quantities)
