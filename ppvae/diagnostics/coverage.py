r"""Expected coverage: does the region that should hold the truth with probability c hold it that often?

The regions are those of highest density of the guide, :math:`\{z : \log q(z \mid x) \ge t\}`: joint over all latent
numbers, so that a wrong correlation shows too. A guide that ignores the row and answers with the prior passes.
"""

__all__ = ["Coverage", "coverage"]

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.sbc import ALPHA
from ppvae.diagnostics.simulated import simulate_pairs
from ppvae.diagnostics.uniformity import LEVEL, Ranks, rank_among
from ppvae.estimate import Estimate
from ppvae.problem.particles import chunks, log_guide_at, log_guide_of, refuse_all_summed
from ppvae.problem.weights import draw
from ppvae.result import Result
from ppvae.story import seeded_eval

CHANCE = (math.pi / 32) ** 0.5  # mean distance of a Brownian bridge from 0


@dataclass(frozen=True)
class Coverage(Result):
    """How often credible regions of the guide hold the truth.

    Arguments:
        ranks: For each simulated row, how many draws lie further inside than the truth.
        method: How regions are ordered: `highest density` or `tarp`.
    """

    ranks: Ranks
    method: str

    @property
    def levels(self) -> Tensor:
        """Credibility that the regions claim, `(L,)`, 0 to 1."""
        return self.ranks.levels

    @property
    def coverage(self) -> Tensor:
        """Share of the rows whose region of this level holds the truth, `(L,)`."""
        return self.ranks.ecdf[0]

    def band(self, level: float = LEVEL) -> tuple[Tensor, Tensor]:
        """Between which the whole curve lies with this probability if the guide is calibrated."""
        return self.ranks.band(level)

    @property
    def calibration_error(self) -> float:
        """Mean distance of coverage and level, 0 to 1/2; about 0.31 / sqrt(N) by chance."""
        return float((self.coverage - self.levels).abs().mean())

    @property
    def excess(self) -> Estimate:
        """Mean of coverage less level, a share; below 0 the guide is too sure, above 0 too cautious."""
        return Estimate.of_draws(0.5 - self.ranks.scaled[0])

    @property
    def p_value(self) -> float:
        """Probability of a curve as far from the diagonal as this from the exact posterior."""
        return self.ranks.p_value

    @property
    def verdict(self) -> Verdict:
        """`fail` if the curve leaves its 95 % band."""
        return "fail" if self.p_value < ALPHA else "pass"

    @property
    def findings(self) -> tuple[Finding, Finding]:
        """Mean of coverage less level, and the calibration error."""
        name = "TARP coverage" if self.method == "tarp" else "expected coverage"
        excess, chance = self.excess, CHANCE / self.ranks.num_simulations**0.5
        return (
            Finding(
                f"{name}, less level", float(excess.value), float(excess.std_error),
                f"p >= {ALPHA}, got {self.p_value:.2g}", self.verdict, self._advice(),
            ),
            Finding(
                f"{name}, calibration error", self.calibration_error, float("nan"),
                f"none; {chance:.3f} by chance", "none",
            ),
        )  # fmt: skip

    def _advice(self) -> str:
        if self.verdict == "pass":
            return ""
        what = "the guide's regions are off"
        if self.method != "tarp":
            sure = float(self.excess.value) < 0
            what = "regions " + (
                "too small: the guide is too sure" if sure else "too large: the guide is too wide"
            )
        return f"{what}; try a larger family, or train longer"


def coverage(
    story: nn.Module,
    guide: nn.Module,
    data: Any = None,
    *,
    num_simulations: int = 1000,
    num_draws: int = 199,
    seed: int = 0,
) -> Coverage:
    """Expected coverage of the guide's highest-density regions, on rows simulated from the story.

    The regions are those of the sites that the guide draws; finite sites that it leaves out are exact given those.

    Arguments:
        story: The story, its latent sites all inside the plate `data`.
        guide: An amortized guide whose density can be evaluated.
        data: As in `sbc`.
        num_simulations: N, rows simulated.
        num_draws: L, draws of the guide for each; levels come in steps of 1/(L + 1).
        seed: Seed of simulation and draws.

    Returns:
        The curve, with its band and verdict.

    Raises:
        ValueError: If the story has global latent sites, or the guide draws no site or its density cannot be evaluated.

    Source:
        J. Hermans et al. (2022). A trust crisis in simulation-based inference? Your posterior approximations can be
        unfaithful.
    """
    pairs = simulate_pairs(story, guide, num_simulations, data, seed)
    ranks = torch.empty(1, num_simulations, dtype=torch.long)
    with torch.no_grad(), seeded_eval(seed + 1, story, guide):
        for where, rows in chunks(pairs.rows, guide, num_draws):
            drawn = draw(guide, rows, num_draws, pairs.sites)
            refuse_all_summed(drawn.values, pairs.sites, "expected coverage")
            truth = {k: pairs.truth[k][None, where] for k in drawn.values}
            at_truth = log_guide_at(guide, rows, truth, pairs.sites)[0]  # (B,)
            at_draws = log_guide_of(guide, rows, drawn, pairs.sites)  # (L, B)
            ranks[0, where] = rank_among(-at_truth, -at_draws).cpu()
    return Coverage(Ranks(("log q",), ranks, num_draws), "highest density")
