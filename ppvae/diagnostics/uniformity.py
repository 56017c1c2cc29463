r"""Are ranks uniform? A test with simultaneous bands for the empirical distribution function.

If the guide is the posterior, the rank of the true value among draws of the guide is uniform over
:math:`0, \dots, L`. The number of :math:`N` ranks that are at most :math:`i` is then binomial for
each :math:`i`, and the smallest of these pointwise tail probabilities is the statistic: its
distribution under uniform ranks is simulated, so that the test, and the band that it draws, hold
for all :math:`i` at once.
"""

__all__ = ["RankStatistics", "rank_among"]

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from ppvae.estimate import Estimate

MIN_REPLICATES, MAX_REPLICATES = 5000, 50_000
LEVEL = 0.95
NULL_SEED = 0


@dataclass(frozen=True)
class RankStatistics:
    """Ranks of several quantities, and whether they are uniform.

    Arguments:
        names: What was ranked, Q names.
        ranks: `(Q, N)` integers from 0 to `num_draws`.
        num_draws: L.
    """

    names: tuple[str, ...]
    ranks: Tensor
    num_draws: int

    @property
    def num_simulations(self) -> int:
        """N."""
        return self.ranks.shape[1]

    @cached_property
    def p_values(self) -> Tensor:
        """Probability, if uniform, of ranks as uneven as those of each quantity, `(Q,)`."""
        null = _null(self.num_simulations, self.num_draws, _num_replicates(len(self.names)))
        counts = self._counts().numpy()
        found = _statistic(counts, self.num_simulations, self.num_draws)
        below = np.searchsorted(null, found * (1 + 1e-9), side="right")
        return torch.from_numpy((1 + below) / (1 + len(null)))

    @property
    def p_value(self) -> float:
        """Of all quantities together (Bonferroni), 0 to 1."""
        return min(1.0, float(self.p_values.min()) * len(self.names))

    def _counts(self) -> Tensor:
        """How many ranks are at most i, `(Q, L)`, for i from 0 to L − 1."""
        one_each = torch.zeros(len(self.ranks), self.num_draws + 1, dtype=torch.float64)
        one_each.scatter_add_(
            1, self.ranks.long(), torch.ones_like(self.ranks, dtype=torch.float64)
        )
        return one_each.cumsum(1)[:, :-1].long()

    @property
    def levels(self) -> Tensor:
        """Shares at which the distribution functions are given, `(L,)`."""
        return torch.arange(1, self.num_draws + 1, dtype=torch.float64) / (self.num_draws + 1)

    @property
    def ecdf(self) -> Tensor:
        """Share of the ranks up to each level, `(Q, L)`; equal to `levels` if uniform."""
        return self._counts().double() / self.num_simulations

    def band(self, level: float = LEVEL) -> tuple[Tensor, Tensor]:
        """Lower and upper bound, `(L,)`, between which the whole `ecdf` of one quantity lies with
        this probability.

        Source:
            T. Säilynoja, P.-C. Bürkner, A. Vehtari (2022). Graphical test for discrete uniformity
            and its applications in goodness-of-fit evaluation and multiple sample comparison.
        """
        from scipy.stats import binom

        null = _null(self.num_simulations, self.num_draws, MIN_REPLICATES)
        gamma = float(np.quantile(null, 1 - level))
        p, n = self.levels.numpy(), self.num_simulations
        bounds = (binom.ppf(gamma / 2, n, p) / n, binom.ppf(1 - gamma / 2, n, p) / n)
        return torch.from_numpy(bounds[0]), torch.from_numpy(bounds[1])

    @property
    def scaled(self) -> Tensor:
        """Ranks as shares, `(Q, N)`, in the middle of their bins."""
        return (self.ranks.double() + 0.5) / (self.num_draws + 1)

    @property
    def shift(self) -> Estimate:
        """Mean rank as a share, less one half, `(Q,)`; above 0 the draws lie too low."""
        return Estimate.of_draws(self.scaled.T - 0.5)

    @property
    def spread(self) -> Estimate:
        """Variance of the ranks over the uniform one, `(Q,)`; above 1 the guide is narrow."""
        uniform = (1 - 1 / (self.num_draws + 1) ** 2) / 12
        return Estimate.of_draws((self.scaled.T - 0.5).square() / uniform)


def rank_among(truth: Tensor, draws: Tensor) -> Tensor:
    """Rank among draws, ties broken at random: `(*,)` and `(S, *)` to `(*,)`, 0 to S."""
    below, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    return below + (torch.rand(ties.shape, device=ties.device) * (ties + 1)).long().minimum(ties)


def _num_replicates(num_quantities: int) -> int:
    """Enough that the corrected p-value of the least uniform of many quantities can be small."""
    return int(min(MAX_REPLICATES, max(MIN_REPLICATES, 200 * num_quantities)))


@lru_cache(maxsize=8)
def _null(num_simulations: int, num_draws: int, num_replicates: int) -> np.ndarray:
    """The statistic of uniform ranks, sorted."""
    generator = np.random.default_rng(NULL_SEED)
    shares = np.full(num_draws + 1, 1 / (num_draws + 1))
    step = max(1, 2**22 // (num_draws + 1))
    parts = []
    for start in range(0, num_replicates, step):
        size = min(step, num_replicates - start)
        counts = generator.multinomial(num_simulations, shares, size=size).cumsum(1)[:, :-1]
        parts.append(_statistic(counts, num_simulations, num_draws))
    return np.sort(np.concatenate(parts))


def _statistic(counts: np.ndarray, num_simulations: int, num_draws: int) -> np.ndarray:
    """Smallest two-sided binomial tail probability over the levels, `(*, L)` to `(*,)`."""
    tails = _tails(num_simulations, num_draws)
    return tails[np.arange(num_draws), counts].min(-1)


@lru_cache(maxsize=2)
def _tails(num_simulations: int, num_draws: int) -> np.ndarray:
    """Two-sided tail probability of each count at each level, `(L, N + 1)`."""
    from scipy.stats import binom

    levels = np.arange(1, num_draws + 1)[:, None] / (num_draws + 1)
    counts = np.arange(num_simulations + 1)
    lower = binom.cdf(counts, num_simulations, levels)
    upper = binom.sf(counts - 1, num_simulations, levels)
    return 2 * np.minimum(lower, upper)
