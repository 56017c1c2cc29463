r"""Rényi's bound: from the ELBO (α = 1) over IWAE's (α = 0) to the heaviest weight alone."""

__all__ = ["Renyi"]

import math
from typing import Any

from torch import Tensor

from ppvae.estimate import log_mean_exp
from ppvae.objectives.base import Objective
from ppvae.problem import Problem
from ppvae.problem.draws import draw_path
from ppvae.story import TensorDict


class Renyi(Objective):
    r"""Rényi's variational bound, :math:`\frac{1}{1-\alpha} E \log \frac1K \sum_k w_k^{1-\alpha}`,
    row by row.

    For :math:`0 \le \alpha \le 1` a lower bound on log p(x); below 0 it may rise above. Global
    sites stand outside the logarithm. Other arguments as for `Objective`.

    Arguments:
        alpha: 1 gives the ELBO, 0 the bound of `IWAE`.

    Raises:
        ValueError: If `alpha` is not finite.

    Source:
        Y. Li, R. E. Turner (2016). Rényi divergence variational inference.
    """

    assumes = "reparametrised sites"
    needs_paths = True

    def __init__(self, problem: Problem, *, alpha: float = 0.5, **options: Any) -> None:
        if not math.isfinite(alpha):
            raise ValueError(f"expected a finite alpha, got {alpha}")
        super().__init__(problem, **options)
        self.alpha = alpha

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        self.kl_weights.warmup = kl_weight
        problem = self.problem.on(batch)
        drawn = draw_path(problem, self.num_particles, share_globals=True)
        scores = problem.score_draws(drawn, self.kl_weights)
        log_w, order = scores.log_weights, 1 - self.alpha
        bound = log_mean_exp(order * log_w, 0) / order if order else log_w
        return self.loss(bound, scores.log_global)
