r"""Row by row: may the guide be trusted, how many nats does it lose, in which direction is it off?

The importance weights of a row's particles say all of it: k-hat judges the weights themselves, log
p(x) by them less the mean log weight is what the guide loses, and moments under them are those of
the posterior, as far as k-hat allows.
"""

__all__ = ["ByRow", "by_row"]

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ppvae.data.chunks import CHUNK_NUMBERS, MAX_CHUNK_ROWS
from ppvae.diagnostics.finding import (
    GOOD_SHARE,
    Finding,
    Verdict,
    khat_verdict,
    number_names,
    share_above,
)
from ppvae.diagnostics.requirements import Pair, as_problem
from ppvae.diagnostics.scored_draws import ScoredDraws, cat_nested, score_draws
from ppvae.estimate import Estimate
from ppvae.inference.khat import effective_sample_size, khat, khat_threshold, smooth_log_weights
from ppvae.result import Result
from ppvae.story import Sites

if TYPE_CHECKING:
    import pandas as pd

NUM_NAMED = 5  # rows that the advice names
TINY = 1e-12


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
        mean_error: Continuous site -> `(B, *row)`: mean of the guide less that of the posterior,
            over the guide's standard deviation. Empty where no site is continuous; shift and scale
            are then unknown (NaN).
        log_scale_error: Continuous site -> `(B, *row)`: log ratio of the standard deviations, guide
            over posterior; below 0 the guide is too narrow.
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
        """k-hat above which a row's weights, and all that they tell, are not to be trusted."""
        return khat_threshold(self.num_particles)

    @property
    def failing(self) -> Tensor:
        """Numbers of the rows above the threshold, the worst first."""
        order = self.khat.argsort(descending=True, stable=True)
        return order[self.khat[order] > self.threshold]

    @property
    def shift(self) -> Tensor:
        """Root mean square of `mean_error` over a row's numbers, `(B,)`, in sd of the guide."""
        return self._stack(self.mean_error).square().mean(-1).sqrt()

    @property
    def scale(self) -> Tensor:
        """Geometric mean over a row's numbers of the guide's sd over the posterior's, `(B,)`."""
        return self._stack(self.log_scale_error).mean(-1).exp()

    def _stack(self, errors: dict[str, Estimate]) -> Tensor:
        """All continuous latent numbers of a row, `(B, d)`."""
        parts = [v.value.reshape(len(v), -1) for v in errors.values()]
        return torch.cat(parts, -1) if parts else self.elbo.value.new_empty(len(self.khat), 0)

    @property
    def verdict(self) -> Verdict:
        """`fail` if weights of over 20 % of the rows are not to be trusted, `warn` above 5 %."""
        return khat_verdict(self.khat, self.threshold)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Rows not to be trusted, what the guide loses, its direction, worth of a particle."""
        worst = ", ".join(str(int(row)) for row in self.failing[:NUM_NAMED])
        advice = (
            f"the guide's tails are too thin on these rows, worst first: {worst}; try a larger "
            "family, or guide.local for them"
        )
        share, bar = share_above(self.khat, self.threshold), f"<= {GOOD_SHARE}"
        name = f"rows with k-hat > {self.threshold:.2f}, share"
        ess_share = float((self.ess.double() / self.num_particles).median())
        scale, shift = float(self.scale.median()), float(self.shift.median())
        directions = (
            Finding.of("guide's scale over posterior's, median row", scale, "none; 1 is best"),
            Finding.of("guide's shift, in its sd, median row", shift, "none; 0 is best"),
        )
        return (
            Finding.of(name, share, bar, self.verdict, advice),
            Finding.of("inference gap, nats, at least", self.gap.mean(), "none; 0 is best"),
            Finding.of("log p(x), nats, at least", self.log_evidence.mean()),
            *(directions if self.mean_error else ()),
            Finding.of("effective share of particles, median row", ess_share, "none; 1 is best"),
        )

    def to_pandas(self) -> "pd.DataFrame":
        """One line a row, with the numbers whose mean and whose scale are furthest off."""
        import pandas as pd

        columns = {
            "khat": self.khat,
            "trusted": self.khat <= self.threshold,
            "ess": self.ess,
            "log_evidence": self.log_evidence.value,
            "elbo": self.elbo.value,
            "gap": self.gap.value,
            "gap_std_error": self.gap.std_error,
            "reconstruction_error": self.reconstruction_error.value,
            **self._worst_numbers(),
        }
        frame = pd.DataFrame(
            {k: v.cpu().numpy() if isinstance(v, Tensor) else v for k, v in columns.items()}
        )
        return frame.rename_axis("row")

    def _worst_numbers(self) -> dict[str, Any]:
        """Columns of the number whose mean, and the one whose scale, is furthest off."""
        if not self.mean_error:
            return {}
        names = number_names({k: v.value.shape[1:] for k, v in self.mean_error.items()})
        means = self._stack(self.mean_error)
        scales = self._stack(self.log_scale_error)
        moved, misscaled = (v.abs().argmax(-1, keepdim=True) for v in (means, scales))
        return {
            "most_shifted": [names[int(i)] for i in moved],
            "mean_error": means.gather(-1, moved)[:, 0],
            "most_misscaled": [names[int(i)] for i in misscaled],
            "scale": scales.gather(-1, misscaled)[:, 0].exp(),
        }


def by_row(
    story: Pair,
    guide: nn.Module | None = None,
    data: Any = None,
    *,
    num_particles: int = 1000,
    seed: int = 0,
) -> ByRow:
    r"""Judge the guide on each row by its importance weights.

    These are :math:`\log w = \log p(x, z) - \log q(z \mid x)`. Mean and scale of the posterior are
    taken under smoothed weights, of continuous sites: a category has neither. Where k-hat is above
    its threshold they understate how far the guide is off, and a mode that the guide lost is
    missing from all of it: `reference_posterior` looks there.

    Arguments:
        story: The story; or a `Problem` of story, guide and rows, with nothing for the two next.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes; they are streamed in bounded memory.
        num_particles: Particles of each row, S.
        seed: Seed of the draws.

    Returns:
        The findings, row by row.

    Raises:
        ValueError: If the story has global latent sites, or there are fewer than 25 particles.

    Source:
        A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry (2024). Pareto smoothed importance
        sampling.
        Y. Yao, A. Vehtari, D. Simpson, A. Gelman (2018). Yes, but did it work? Evaluating
        variational inference.
    """
    khat_threshold(num_particles)
    problem = as_problem(story, guide, data, "a judgement of each row")
    numbers = 2 + len(problem.sites.observed)  # kept of each particle
    numbers += sum(site.row_shape.numel() for site in problem.sites.latent.values())
    step = max(1, min(MAX_CHUNK_ROWS, CHUNK_NUMBERS // (numbers * num_particles)))
    with torch.no_grad(), problem.eval_mode(seed):
        parts = [_measure(score_draws(p, num_particles), p.sites) for p in problem.pieces(step)]
    return ByRow(**cat_nested(parts), num_particles=num_particles)


def _measure(draws: ScoredDraws, sites: Sites) -> dict[str, Any]:
    """All that `ByRow` holds, for a piece of the rows."""
    log_w = draws.log_weights
    num_particles = len(log_w)
    ess = effective_sample_size(log_w)
    evidence = log_w.logsumexp(0) - math.log(num_particles)
    smoothed = smooth_log_weights(log_w).softmax(0)
    errors = {
        name: _moment_errors(smoothed, draws.latents[name]) for name in sites.local_continuous
    }
    return {
        "khat": khat(log_w),
        "ess": ess,
        "log_evidence": Estimate(evidence, (1 / ess - 1 / num_particles).clamp(min=0).sqrt()),
        "elbo": Estimate.of_draws(log_w),
        "gap": Estimate(
            evidence - log_w.mean(0),
            Estimate.of_draws(num_particles * log_w.softmax(0) - log_w).std_error,
        ),
        "reconstruction_error": Estimate.of_draws(-draws.total_log_likelihood),
        "mean_error": {name: mean for name, (mean, _) in errors.items()},
        "log_scale_error": {name: log_scale for name, (_, log_scale) in errors.items()},
    }


def _moment_errors(weights: Tensor, values: Tensor) -> tuple[Estimate, Estimate]:
    """Errors of the guide's mean and log scale, `(B, *row)`, with delta-method errors."""
    num_particles = len(weights)
    w = weights.reshape(*weights.shape, *(1,) * (values.dim() - 2))
    z = values.to(weights.dtype)
    z = z - z.mean(0)  # the guide's mean is now 0
    guide_variance = z.square().mean(0).clamp(min=TINY)
    mean = (w * z).sum(0)
    centred = z - mean
    variance = (w * centred.square()).sum(0).clamp(min=TINY)
    mean_noise = (w * centred - z / num_particles).square().sum(0)
    guide_noise = (z.square() / guide_variance - 1) / num_particles
    scale_noise = w * (centred.square() / variance - 1) - guide_noise
    return (
        Estimate(-mean / guide_variance.sqrt(), (mean_noise / guide_variance).sqrt()),
        Estimate(0.5 * (guide_variance / variance).log(), 0.5 * scale_noise.square().sum(0).sqrt()),
    )
