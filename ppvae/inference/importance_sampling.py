r"""log p(x) from importance weights, streamed over rows and particles in bounded memory."""

__all__ = ["ERRORS", "RunningWeights", "importance_evidence", "importance_sampling"]

import math

import torch
from torch import Tensor

from ppvae.estimate import Estimate
from ppvae.problem import Problem

ERRORS: dict[str, str] = {
    "delta": "from the spread of the weights, to first order",
    "jackknife": "from estimates that leave out a hundredth of the particles each",
}
JACKKNIFE_GROUPS = 100


class RunningWeights:
    """The sums over particles that an estimate of log p(x) needs, in float64; particles come in
    pieces.

    Arguments:
        num_rows: B.
        num_groups: Groups into which particles are divided; more than one for the jackknife.
    """

    def __init__(self, num_rows: int, num_groups: int = 1) -> None:
        self.log_sums = torch.full((num_groups, num_rows), -torch.inf, dtype=torch.float64)
        self.log_square = torch.full((num_rows,), -torch.inf, dtype=torch.float64)
        self.counts = torch.zeros(num_groups, 1, dtype=torch.float64)

    def add(self, log_w: Tensor) -> None:
        """Add log weights, `(S, B)`, in nats."""
        log_w = log_w.detach().to("cpu", torch.float64)
        groups, first = len(self.counts), int(self.counts.sum())
        for i in range(min(groups, len(log_w))):
            g, share = (first + i) % groups, log_w[i::groups]
            self.log_sums[g] = torch.logaddexp(self.log_sums[g], share.logsumexp(0))
            self.counts[g] += len(share)
        self.log_square = torch.logaddexp(self.log_square, (2 * log_w).logsumexp(0))

    def estimate(self, error: str = "delta") -> Estimate:
        """log of the mean weight, `(B,)`, in nats, with its standard error; NaN where one particle
        leaves it unknown.
        """
        num, log_sum = float(self.counts.sum()), self.log_sums.logsumexp(0)
        value = log_sum - math.log(num)
        if num == 1:
            return Estimate(value, torch.full_like(value, torch.nan))
        if error == "jackknife":
            return Estimate(value, self._jackknife())
        spread = num * (self.log_square - 2 * log_sum).exp() - 1
        return Estimate(value, (spread.clamp(min=0) / (num - 1)).sqrt())

    def _jackknife(self) -> Tensor:
        """Spread of the estimates that leave one group out."""
        used = self.counts.flatten() > 0
        log_sums, counts = self.log_sums[used], self.counts[used]
        groups = len(counts)
        total = log_sums.logsumexp(0)
        rest = torch.log(-torch.expm1((log_sums - total).clamp(max=0)))
        without = total + rest - (counts.sum() - counts).log()
        return ((groups - 1) * without.var(0, correction=0)).sqrt()


def importance_sampling(
    problem: Problem, num_particles: int, *, error: str = "delta", seed: int | None = None
) -> Estimate:
    r"""log p(x) as :math:`\log \frac{1}{K} \sum_k w_k` of each row, a lower bound in expectation.

    Neither the particles nor their weights are kept: memory does not grow with K, and with B only
    by the result.

    Arguments:
        problem: Story, guide (the proposal, amortized or not) and rows.
        num_particles: K.
        error: How the standard error is found, a key of `ERRORS`.
        seed: Seed of the draws.

    Returns:
        `(B,)`, in nats; not finite where weights are not.

    Source:
        Y. Burda, R. Grosse, R. Salakhutdinov (2016). Importance weighted autoencoders.
        J. W. Tukey (1958). Bias and confidence in not quite large samples.
    """
    groups = min(JACKKNIFE_GROUPS, num_particles) if error == "jackknife" else 1
    parts = []
    with torch.no_grad(), problem.eval_mode(seed):
        for piece in problem.pieces():
            running = RunningWeights(piece.num_rows, groups)
            for size in piece.particle_sizes(num_particles):
                running.add(piece.score(size).log_weights)
            parts.append(running.estimate(error))
    found, like = Estimate.cat(parts), next(iter(problem.batch.values()))
    return Estimate(found.value.to(like), found.std_error.to(like))


def importance_evidence(log_w: Tensor) -> Estimate:
    r"""log p(x) from importance weights at hand, :math:`\log \frac{1}{K} \sum_k w_k`, with a
    delta-method error.

    A lower bound in expectation. Trust the error where `khat` is below its threshold.

    Arguments:
        log_w: Log weights, `(K, B)`, in nats.

    Returns:
        `(B,)`, in nats.

    Raises:
        ValueError: If a row's weights are all zero, or one is NaN: the message counts the rows.
    """
    bad = int((~torch.isfinite(log_w.amax(0))).sum())
    if bad:
        raise ValueError(
            f"expected finite log weights, got none in {bad} of {log_w.shape[1]} rows: the guide "
            "has lost the support of the posterior, or the story's density is NaN there"
        )
    running = RunningWeights(log_w.shape[1])
    running.add(log_w)
    found = running.estimate()
    return Estimate(found.value.to(log_w), found.std_error.to(log_w))
