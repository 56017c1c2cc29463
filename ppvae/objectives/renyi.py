r"""Rényi's bound: from the ELBO (α = 1) over IWAE's (α = 0) to the heaviest weight alone."""

__all__ = ["Renyi"]

import math
from typing import Any

from torch import Tensor, nn

from ppvae.inference.importance_sampling import log_mean_exp
from ppvae.objectives.base import Objective
from ppvae.problem.draws import draw_path
from ppvae.problem.weighted import weigh
from ppvae.story import TensorDict


class Renyi(Objective):
    r"""Rényi's variational bound, :math:`\frac{1}{1-\alpha} E \log \frac1K \sum_k w_k^{1-\alpha}`, row by row.

    For :math:`0 \le \alpha \le 1` a lower bound on log p(x); below 0 it may rise above. Global sites stand outside
    the logarithm. Other arguments as for `Objective`.

    Arguments:
        alpha: 1 gives the ELBO, 0 the bound of `IWAE`.

    Raises:
        ValueError: If `alpha` is not finite.

    Source:
        Y. Li, R. E. Turner (2016). Rényi divergence variational inference.
    """

    assumes = "reparametrised sites"
    needs_paths = True

    def __init__(
        self, story: nn.Module, guide: nn.Module, data: Any, *, alpha: float = 0.5, **options: Any
    ) -> None:
        if not math.isfinite(alpha):
            raise ValueError(f"expected a finite alpha, got {alpha}")
        super().__init__(story, guide, data, **options)
        self.alpha = alpha

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        self.kl_weights.kl_weight = kl_weight
        drawn = draw_path(self.guide, batch, self.num_particles, self.sites, one_global=True)
        particles = weigh(self.story, batch, self.sites, drawn, self.kl_weights)
        log_w, order = particles.log_weights, 1 - self.alpha
        bound = log_mean_exp(order * log_w, 0) / order if order else log_w
        return self.loss(bound, particles.log_shared)
