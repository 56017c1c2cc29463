r"""Posterior collapse: which latent numbers say anything about the row?"""

__all__ = ["ActiveUnits", "active_units"]

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.requirements import Pair, as_problem
from ppvae.estimate import Estimate
from ppvae.predict.embed import ACTIVE_VARIANCE, posterior_means, variance_over_rows
from ppvae.result import Result

COLLAPSE_REMEDY = "use kl_warmup in fit, or a weaker decoder"


@dataclass(frozen=True)
class ActiveUnits(Result):
    """How much the posterior mean of each latent number moves from row to row.

    Arguments:
        variance: Site -> `(*row)`, variance over rows of the posterior mean, in the site's unit
            squared.
        threshold: Variance above which a number is active, same unit.
    """

    variance: dict[str, Estimate]
    threshold: float

    @property
    def active(self) -> dict[str, Tensor]:
        """Site -> `(*row)`, true where the number is active."""
        return {name: v.value > self.threshold for name, v in self.variance.items()}

    @property
    def num_active(self) -> int:
        """Active numbers over all sites."""
        return sum(int(a.sum()) for a in self.active.values())

    @property
    def num_units(self) -> int:
        """Latent numbers of a row."""
        return sum(a.numel() for a in self.active.values())

    @property
    def verdict(self) -> Verdict:
        """`fail` if no number is active (the posterior has collapsed), `warn` if some are not."""
        if not self.num_active:
            return "fail"
        return "pass" if self.num_active == self.num_units else "warn"

    @property
    def findings(self) -> tuple[Finding]:
        """Share of the latent numbers that are active."""
        idle = self.num_units - self.num_active
        advice = (
            f"{idle} of {self.num_units} latent numbers say nothing: use fewer, or kl_warmup in fit"
        )
        if self.verdict == "fail":
            advice = f"the posterior has collapsed onto the prior: {COLLAPSE_REMEDY}"
        share = self.num_active / self.num_units
        return (Finding.of("active units, share", share, "all of them", self.verdict, advice),)


def active_units(
    story: Pair,
    guide: nn.Module | None = None,
    data: Any = None,
    *,
    threshold: float = ACTIVE_VARIANCE,
    num_particles: int = 100,
    seed: int = 0,
) -> ActiveUnits:
    """Variance over rows of the posterior mean of each latent number.

    A number is active if its variance exceeds the threshold, which suits standard normal priors;
    give another for sites of another scale. What the noise of the particles adds to the variance is
    taken off.

    Arguments:
        story: The story; or a `Problem` of story, guide and rows, with nothing for the two next.
        guide: Its guide.
        data: At least two rows, anything that `ppvae.data.as_rows` takes.
        threshold: In the unit of the site, squared.
        num_particles: Draws of each row, S.
        seed: Seed of the draws.

    Returns:
        Variances and the count of active numbers.

    Raises:
        ValueError: If there is only one row or particle, or the story has global latent sites.

    Source:
        Y. Burda, R. Grosse, R. Salakhutdinov (2016). Importance weighted autoencoders.
    """
    problem = as_problem(story, guide, data, "active units")
    if problem.num_rows < 2 or num_particles < 2:
        raise ValueError(
            f"expected at least two rows and two particles, got {problem.num_rows} and "
            f"{num_particles}"
        )
    means = posterior_means(problem, num_particles, seed=seed)
    return ActiveUnits({name: variance_over_rows(m) for name, m in means.items()}, threshold)
