r"""VIMCO: IWAE's bound for sites without a path, each particle's signal set against the others'."""

__all__ = ["VIMCO"]

import math

import torch
from torch import Tensor

from ppvae.estimate import log_mean_exp
from ppvae.objectives.base import Objective
from ppvae.problem.draws import draw_detached
from ppvae.story import TensorDict


class VIMCO(Objective):
    r"""IWAE's bound by score function, :math:`\sum_k (\hat L - \hat L^{-k}) \nabla \log q(z_k|x) +
    \nabla \hat L`.

    :math:`\hat L^{-k}` is the bound with particle k's weight replaced by the geometric mean of the
    others': a baseline that costs nothing and cannot see particle k. Global sites keep their path.
    Arguments as for `Objective`, with at least two particles.

    Source:
        A. Mnih, D. J. Rezende (2016). Variational inference for Monte Carlo objectives.
    """

    assumes = "independent particles, at least two; any local sites, reparametrised global ones"
    is_bound_on = "iwelbo"
    needs_density = True
    needs_independence = True
    min_particles = 2

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        self.kl_weights.warmup = kl_weight
        problem = self.problem.on(batch)
        drawn = draw_detached(problem, self.num_particles, share_globals=True)
        scores = problem.score_draws(drawn, self.kl_weights)
        bound = log_mean_exp(scores.log_weights, 0)
        with torch.no_grad():
            signal = bound - without_each(scores.log_weights)
        value = self.loss(bound, scores.log_global)
        score = self.loss((signal * drawn.local).sum(0), scores.log_global.detach())
        return value + (score - score.detach())


def without_each(log_w: Tensor) -> Tensor:
    """The bound with each weight in turn replaced by the others' geometric mean, `(K, B)`."""
    num = len(log_w)
    zero = torch.zeros_like(log_w[:1])
    earlier = torch.cat([zero, log_w.cumsum(0)[:-1]])
    later = torch.cat([zero, log_w.flip(0).cumsum(0)[:-1]]).flip(0)
    others = (earlier + later) / (num - 1)  # not by subtraction: a weight may be 0
    nothing = torch.full_like(log_w[:1], -torch.inf)
    before = torch.cat([nothing, log_w.logcumsumexp(0)[:-1]])
    after = torch.cat([nothing, log_w.flip(0).logcumsumexp(0)[:-1]]).flip(0)
    return torch.logaddexp(torch.logaddexp(before, after), others) - math.log(num)
