r"""Simulation-based calibration: does the guide rank the truth evenly among its own draws?

Draw :math:`(z, x)` from the story and :math:`L` values from the guide at :math:`x`. If the guide is the posterior, :math:`z` is one
more draw of it, and its rank is uniform, number by number.

What the ranks of the latent numbers cannot see: anything that the posteriors of all rows average away. A guide
that ignores the row and answers with the prior passes. The rank of log p(x | z), a quantity of latents and row
together, is therefore tested beside them.
"""

__all__ = ["SBC", "Quantity", "sbc"]

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.diagnostics.finding import Finding, Verdict, number_names
from ppvae.diagnostics.simulated import Simulated, simulate_pairs
from ppvae.diagnostics.uniformity import Ranks, rank_among
from ppvae.problem.particles import chunks, log_prob_by_site
from ppvae.problem.weights import draw_all
from ppvae.result import Result
from ppvae.story import Sites, TensorDict, seeded_eval

Quantity = Callable[[TensorDict, TensorDict], Tensor]
LOG_LIKELIHOOD = "log_likelihood"
ALPHA = 0.05
SURE = 2.0  # standard errors that a direction must span before it is named


@dataclass(frozen=True)
class SBC(Result):
    """Ranks of every latent number and test quantity, and whether they are uniform.

    Arguments:
        ranks: Of each latent number, named `site[index]`, then of each test quantity.
        num_latent: How many of them are latent numbers.
    """

    ranks: Ranks
    num_latent: int

    @property
    def p_value(self) -> float:
        """Probability of ranks as uneven as these from the exact posterior, over all quantities."""
        return self.ranks.p_value

    @property
    def verdict(self) -> Verdict:
        """`fail` if the ranks are not uniform at the 5 % level, all quantities together."""
        return "fail" if self.p_value < ALPHA else "pass"

    @property
    def worst(self) -> int:
        """Position of the quantity with the least uniform ranks; a latent number, if one of them fails."""
        ranks, p = self.ranks, self.ranks.p_values
        distance = (ranks.ecdf - ranks.levels).abs().amax(-1)
        latent = torch.arange(len(p)) < self.num_latent
        failing = latent & (p * len(p) < ALPHA)
        among = failing if bool(failing.any()) else p <= p.min()
        return int(torch.where(among, distance, -1.0).argmax())

    def direction(self, index: int) -> str:
        """In words, how the guide is off in one quantity."""
        shift, spread = self.ranks.shift[index], self.ranks.spread[index]
        words = []
        if abs(float(shift.value)) > SURE * float(shift.std_error):
            side = "low" if float(shift.value) > 0 else "high"
            words.append(f"too {side} (mean rank {0.5 + float(shift.value):.2f}, not 0.50)")
        if abs(float(spread.value) - 1) > SURE * float(spread.std_error):
            side = "narrow" if float(spread.value) > 1 else "wide"
            words.append(f"too {side} (ranks' variance {float(spread.value):.2f}, not 1.00)")
        return " and ".join(words) or "of another shape"

    @property
    def finding(self) -> Finding:
        """The quantity with the least uniform ranks."""
        index, advice = self.worst, ""
        name = self.ranks.names[index]
        if self.verdict == "fail":
            what = f"the guide is {self.direction(index)} in {name}"
            if index >= self.num_latent:
                what = f"the draws of {name} are {self.direction(index)}, though each latent number by itself is even"
            advice = f"{what}: try a larger family or encoder, or train longer"
        return Finding(
            "SBC, p-value of uniform ranks",
            self.p_value,
            float("nan"),
            f">= {ALPHA}",
            self.verdict,
            advice,
        )


def sbc(
    story: nn.Module,
    guide: nn.Module,
    data: Any = None,
    *,
    num_simulations: int = 1000,
    num_draws: int = 99,
    test_quantities: Mapping[str, Quantity] | None = None,
    seed: int = 0,
) -> SBC:
    """Rank the true latent values of simulated rows among draws of the guide.

    Arguments:
        story: The story, its latent sites all inside the plate `data`: continuous, constrained or discrete.
        guide: An amortized guide, any Pyro guide of the story.
        data: Rows that tell which sites are observed and lend their covariates and missing entries; None: the sites
            that no other depends on are observed.
        num_simulations: N, rows simulated, one encoder pass each.
        num_draws: L, draws of the guide for each.
        test_quantities: Name -> function of latents (site -> `(S, B, *row)`) and rows (name -> `(B, *event)`) that
            returns `(S, B)`; ranked beside the latent numbers. None: `log_likelihood`, which is log p(x | z).
        seed: Seed of simulation and draws.

    Returns:
        The ranks.

    Raises:
        ValueError: If the story has global latent sites, or a test quantity returns another shape or NaN.

    Source:
        S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman (2018). Validating Bayesian inference algorithms with
        simulation-based calibration.
        M. Modrák et al. (2023). Simulation-based calibration checking for Bayesian computation: the choice of test
        quantities shapes sensitivity.
    """
    pairs = simulate_pairs(story, guide, num_simulations, data, seed)
    quantities = dict(test_quantities or {})
    if test_quantities is None:
        quantities[LOG_LIKELIHOOD] = _log_likelihood(story, pairs.sites)
    names = _names(pairs, quantities)
    ranks = torch.empty(len(names), num_simulations, dtype=torch.long)
    with torch.no_grad(), seeded_eval(seed + 1, story, guide):
        for where, rows in chunks(pairs.rows, guide, num_draws):
            draws = draw_all(story, guide, rows, num_draws, pairs.sites).values
            found = list(_rank(pairs, where, rows, draws, quantities))
            ranks[:, where] = torch.cat(found).cpu()
    return SBC(Ranks(names, ranks, num_draws), len(names) - len(quantities))


def _rank(
    pairs: Simulated,
    where: slice,
    rows: TensorDict,
    draws: TensorDict,
    quantities: Mapping[str, Quantity],
) -> Iterator[Tensor]:
    """Ranks of a chunk of rows: of each site `(numbers, B)`, of each quantity `(1, B)`."""
    truth = {k: v[where] for k, v in pairs.truth.items()}
    for name, value in truth.items():
        rank = rank_among(value, draws[name].to(value.dtype))
        yield rank.flatten(1).T if rank.dim() > 1 else rank[None]
    num_rows = len(next(iter(truth.values())))
    for name, quantity in quantities.items():
        true = _checked(name, quantity({k: v[None] for k, v in truth.items()}, rows), (1, num_rows))
        num_draws = len(next(iter(draws.values())))
        drawn = _checked(name, quantity(draws, rows), (num_draws, num_rows))
        yield rank_among(true[0], drawn)[None]


def _checked(name: str, value: Tensor, shape: tuple[int, int]) -> Tensor:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"test quantity '{name}': expected a tensor (particles, rows) of shape {shape}, got {got}"
        )
    if bool(torch.isnan(value).any()):
        raise ValueError(f"test quantity '{name}': expected numbers that can be ranked, got NaN")
    return value


def _log_likelihood(story: nn.Module, sites: Sites) -> Quantity:
    """log p(x | z), `(S, B)`, in nats."""

    def quantity(latents: TensorDict, rows: TensorDict) -> Tensor:
        scores = log_prob_by_site(story, rows, latents, sites)
        return torch.stack([scores[name] for name in sites.observed]).sum(0)

    return quantity


def _names(pairs: Simulated, quantities: Mapping[str, Quantity]) -> tuple[str, ...]:
    names = number_names({name: value.shape[1:] for name, value in pairs.truth.items()})
    taken = sorted(set(names) & set(quantities))
    if taken:
        raise ValueError(f"expected test quantities named unlike the latent sites, got {taken}")
    return (*names, *quantities)
