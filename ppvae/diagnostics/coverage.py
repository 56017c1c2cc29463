r"""Expected coverage: does the region that should hold the truth with probability c hold it that
often?

The regions are those of highest density of the guide, :math:`\{z : \log q(z \mid x) \ge t\}`: joint
over all latent numbers, so that a wrong correlation shows too. A guide that ignores the row and
answers with the prior passes.
"""

__all__ = ["Coverage", "coverage"]

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.requirements import Pair, check_draws_sites
from ppvae.diagnostics.sbc import ALPHA
from ppvae.diagnostics.simulated_pairs import simulate_pairs
from ppvae.diagnostics.uniformity import LEVEL, RankStatistics, rank_among
from ppvae.estimate import Estimate
from ppvae.result import Result

CHANCE = (math.pi / 32) ** 0.5  # mean distance of a Brownian bridge from 0


@dataclass(frozen=True)
class Coverage(Result):
    """How often credible regions of the guide hold the truth.

    Arguments:
        rank_statistics: For each simulated row, how many draws lie further inside than the truth.
        method: How regions are ordered: `highest density` or `tarp`.
    """

    rank_statistics: RankStatistics
    method: str

    @property
    def levels(self) -> Tensor:
        """Credibility that the regions claim, `(L,)`, 0 to 1."""
        return self.rank_statistics.levels

    @property
    def coverage(self) -> Tensor:
        """Share of the rows whose region of this level holds the truth, `(L,)`."""
        return self.rank_statistics.ecdf[0]

    def band(self, level: float = LEVEL) -> tuple[Tensor, Tensor]:
        """Between which the whole curve lies with this probability if the guide is calibrated."""
        return self.rank_statistics.band(level)

    @property
    def calibration_error(self) -> float:
        """Mean distance of coverage and level, 0 to 1/2; about 0.31 / sqrt(N) by chance."""
        return float((self.coverage - self.levels).abs().mean())

    @property
    def excess(self) -> Estimate:
        """Mean of coverage less level, a share; below 0 the guide is too sure."""
        return Estimate.of_draws(0.5 - self.rank_statistics.scaled[0])

    @property
    def p_value(self) -> float:
        """Probability of a curve as far from the diagonal as this from the exact posterior."""
        return self.rank_statistics.p_value

    @property
    def verdict(self) -> Verdict:
        """`fail` if the curve leaves its 95 % band."""
        return "fail" if self.p_value < ALPHA else "pass"

    @property
    def findings(self) -> tuple[Finding, Finding]:
        """Mean of coverage less level, and the calibration error."""
        name = "TARP coverage" if self.method == "tarp" else "expected coverage"
        fault = "the guide's regions are off"
        if self.method != "tarp":
            fault = "regions too large: the guide is too wide"
            if float(self.excess.value) < 0:
                fault = "regions too small: the guide is too sure"
        advice = f"{fault}; try a larger family, or train longer"
        chance = CHANCE / self.rank_statistics.num_simulations**0.5
        bar = f"p >= {ALPHA}, got {self.p_value:.2g}"
        error_name, error_bar = f"{name}, calibration error", f"none; {chance:.3f} by chance"
        return (
            Finding.of(f"{name}, less level", self.excess, bar, self.verdict, advice),
            Finding.of(error_name, self.calibration_error, error_bar),
        )


def coverage(
    story: Pair,
    guide: nn.Module | None = None,
    data: Any = None,
    *,
    num_simulations: int = 1000,
    num_draws: int = 199,
    seed: int = 0,
) -> Coverage:
    """Expected coverage of the guide's highest-density regions, on rows simulated from the story.

    The regions are those of the sites that the guide draws; finite sites that it leaves out are
    exact given those.

    Arguments:
        story: The story, its latent sites all inside the plate `data` (or a `Problem` of story,
            guide and rows).
        guide: An amortized guide whose density can be evaluated.
        data: As in `sbc`.
        num_simulations: N, rows simulated.
        num_draws: L, draws of the guide for each; levels come in steps of 1/(L + 1).
        seed: Seed of simulation and draws.

    Returns:
        The curve, with its band and verdict.

    Raises:
        ValueError: If the story has global latent sites, or the guide draws no site or its density
            cannot be evaluated.

    Source:
        J. Hermans et al. (2022). A trust crisis in simulation-based inference? Your posterior
        approximations can be unfaithful.
    """
    pairs = simulate_pairs(story, guide, data, num_simulations, seed)
    ranks = torch.empty(1, num_simulations, dtype=torch.long)
    with torch.no_grad(), pairs.problem.eval_mode(seed + 1):
        for rows, piece, truth in pairs.pieces(num_draws):
            drawn = piece.draw(num_draws)
            check_draws_sites(piece, drawn.values, "expected coverage")
            at_truth = piece.log_guide({name: truth[name][None] for name in drawn.values})[
                0
            ]  # (B,)
            at_draws = piece.log_guide_of(drawn)  # (L, B)
            ranks[0, rows] = rank_among(-at_truth, -at_draws).cpu()
    return Coverage(RankStatistics(("log q",), ranks, num_draws), "highest density")
