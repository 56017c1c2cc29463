r"""What the importance weights of each row tell: which rows fail, how many nats they lose, and in which direction."""

__all__ = ["ByRow"]

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppvae.diagnostics.finding import Finding, Verdict, number_names
from ppvae.estimate import Estimate
from ppvae.inference.khat import khat_threshold
from ppvae.result import Result

if TYPE_CHECKING:
    import pandas as pd

GOOD_SHARE, BAD_SHARE = 0.05, 0.2
NUM_NAMED = 5
UNKNOWN = float("nan")


@dataclass(frozen=True)
class ByRow(Result):
    """What the importance weights of each row tell.

    Arguments:
        khat: Pareto k-hat, `(B,)`, dimensionless.
        ess: Effective sample size, `(B,)`, in particles.
        log_evidence: log p(x) by importance sampling, a lower bound in mean, `(B,)`, in nats.
        elbo: L[q], `(B,)`, in nats.
        gap: Their difference, `(B,)`, in nats: the inference gap or less.
        reconstruction_error: −E_q[log p(x | z)], `(B,)`, in nats.
        mean_error: Continuous site -> `(B, *row)`: mean of the guide less that of the posterior, over the guide's
            standard deviation. Empty where no site is continuous; shift and scale are then unknown (NaN).
        log_scale_error: Continuous site -> `(B, *row)`: log ratio of the standard deviations, guide over posterior; below 0
            the guide is too narrow.
        num_particles: Particles behind each.
    """

    khat: Tensor
    ess: Tensor
    log_evidence: Estimate
    elbo: Estimate
    gap: Estimate
    reconstruction_error: Estimate
    mean_error: dict[str, Estimate]
    log_scale_error: dict[str, Estimate]
    num_particles: int

    @property
    def threshold(self) -> float:
        """k-hat above which the weights of a row, and all that is read off them, are not to be trusted."""
        return khat_threshold(self.num_particles)

    @property
    def failing(self) -> Tensor:
        """Numbers of the rows above the threshold, the worst first."""
        order = self.khat.argsort(descending=True, stable=True)
        return order[self.khat[order] > self.threshold]

    @property
    def shift(self) -> Tensor:
        """Root mean square of `mean_error` over the latent numbers, `(B,)`, in standard deviations of the guide."""
        return self._side_by_side(self.mean_error).square().mean(-1).sqrt()

    @property
    def scale(self) -> Tensor:
        """Standard deviation of the guide over that of the posterior, geometric mean over the numbers, `(B,)`."""
        return self._side_by_side(self.log_scale_error).mean(-1).exp()

    def _side_by_side(self, errors: dict[str, Estimate]) -> Tensor:
        """All continuous latent numbers of a row, `(B, d)`."""
        parts = [v.value.reshape(len(v), -1) for v in errors.values()]
        return torch.cat(parts, -1) if parts else self.elbo.value.new_empty(len(self.khat), 0)

    @property
    def verdict(self) -> Verdict:
        """`fail` if the weights of more than 20 % of the rows are not to be trusted, `warn` above 5 %."""
        share = float((self.khat > self.threshold).double().mean())
        return "fail" if share > BAD_SHARE else "warn" if share > GOOD_SHARE else "pass"

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Share of rows not to be trusted, what the guide loses, its direction, and the worth of a particle."""
        share = float((self.khat > self.threshold).double().mean())
        error = math.sqrt(share * (1 - share) / len(self.khat))
        worst = ", ".join(str(int(row)) for row in self.failing[:NUM_NAMED])
        advice = (
            f"the guide's tails are too thin on these rows, worst first: {worst}; try a larger family, or guide.local "
            "for them"
        )
        loss, evidence = self.gap.mean(), self.log_evidence.mean()
        ess = (self.ess.double() / self.num_particles).median()
        return (
            Finding(
                f"rows with k-hat > {self.threshold:.2f}, share", share, error, f"<= {GOOD_SHARE}",
                self.verdict, "" if self.verdict == "pass" else advice,
            ),
            Finding(
                "inference gap, nats, at least", float(loss.value), float(loss.std_error),
                "none; 0 is best", "none",
            ),
            Finding(
                "log p(x), nats, at least", float(evidence.value), float(evidence.std_error),
                "none", "none",
            ),
            *self._directions(),
            Finding(
                "effective share of particles, median row", float(ess), UNKNOWN, "none; 1 is best",
                "none",
            ),
        )  # fmt: skip

    def _directions(self) -> tuple[Finding, ...]:
        """Scale and shift of the median row; nothing where no latent site is continuous."""
        if not self.mean_error:
            return ()
        named = (
            ("guide's scale over posterior's, median row", self.scale, "none; 1 is best"),
            ("guide's shift, in its sd, median row", self.shift, "none; 0 is best"),
        )
        return tuple(
            Finding(name, float(value.median()), UNKNOWN, bar, "none") for name, value, bar in named
        )

    def to_pandas(self) -> "pd.DataFrame":
        """One line a row, with the continuous number whose mean and the one whose scale is furthest off."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "khat": _column(self.khat),
                "trusted": _column(self.khat <= self.threshold),
                "ess": _column(self.ess),
                "log_evidence": _column(self.log_evidence.value),
                "elbo": _column(self.elbo.value),
                "gap": _column(self.gap.value),
                "gap_std_error": _column(self.gap.std_error),
                "reconstruction_error": _column(self.reconstruction_error.value),
                **self._worst_numbers(),
            }
        )
        return frame.rename_axis("row")

    def _worst_numbers(self) -> dict[str, Any]:
        """Columns of the number whose mean, and the one whose scale, is furthest off."""
        if not self.mean_error:
            return {}
        names = number_names({k: v.value.shape[1:] for k, v in self.mean_error.items()})
        means = self._side_by_side(self.mean_error)
        scales = self._side_by_side(self.log_scale_error)
        moved, misscaled = (v.abs().argmax(-1, keepdim=True) for v in (means, scales))
        return {
            "most_shifted": [names[int(i)] for i in moved],
            "mean_error": _column(means.gather(-1, moved)[:, 0]),
            "most_misscaled": [names[int(i)] for i in misscaled],
            "scale": _column(scales.gather(-1, misscaled)[:, 0].exp()),
        }


def _column(values: Tensor) -> Any:
    return values.cpu().numpy()
