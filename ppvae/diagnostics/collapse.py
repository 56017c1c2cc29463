r"""Posterior collapse: which latent numbers say anything about the row?"""

__all__ = ["ActiveUnits", "active_units", "variance_over_rows"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data import to_batch
from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.estimate import Estimate
from ppvae.predict import embed
from ppvae.problem.weights import check_pair, refuse_global
from ppvae.result import Result

ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True)
class ActiveUnits(Result):
    """How much the posterior mean of each latent number moves from row to row.

    Arguments:
        variance: Site -> `(*row)`, variance over rows of the posterior mean, in the site's unit squared.
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
    def finding(self) -> Finding:
        """Share of the latent numbers that are active."""
        idle = self.num_units - self.num_active
        advice = {
            "pass": "",
            "warn": f"{idle} of {self.num_units} latent numbers say nothing: use fewer, or kl_warmup in fit",
            "fail": "the posterior has collapsed onto the prior: use kl_warmup in fit, or a weaker decoder",
        }
        share = self.num_active / self.num_units
        return Finding(
            "active units, share",
            share,
            float("nan"),
            "all of them",
            self.verdict,
            advice[self.verdict],
        )


def active_units(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    threshold: float = ACTIVE_VARIANCE,
    num_particles: int = 100,
    seed: int = 0,
) -> ActiveUnits:
    """Variance over rows of the posterior mean of each latent number.

    A number is active if its variance exceeds the threshold, which suits standard normal priors; give another for
    sites of another scale. What the noise of the particles adds to the variance is taken off.

    Arguments:
        story: The story.
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
    batch = to_batch(story, data)
    refuse_global(check_pair(story, guide, batch), "active units")
    num_rows = len(next(iter(batch.values())))
    if num_rows < 2 or num_particles < 2:
        raise ValueError(
            f"expected at least two rows and two particles, got {num_rows} and {num_particles}"
        )
    means = embed(story, guide, batch, num_particles=num_particles, seed=seed)
    return ActiveUnits({name: variance_over_rows(m) for name, m in means.items()}, threshold)


def variance_over_rows(means: Estimate) -> Estimate:
    """Variance over rows of posterior means `(B, *row)` -> `(*row)`, its standard error from the rows' fourth moment."""
    deviation = (means.value - means.value.mean(0)).square()
    correction = len(deviation) / (len(deviation) - 1)
    squares = Estimate.of_draws(correction * deviation - means.std_error.square())
    return Estimate(squares.value.clamp(min=0), torch.nan_to_num(squares.std_error))
