r"""Trace ELBO: every term by Monte Carlo, path-wise where possible, else by score function."""

__all__ = ["TraceELBO"]

import pyro.infer
from torch import Tensor

from ppvae.objectives.pyro_elbo import PyroELBO
from ppvae.story import TensorDict


class TraceELBO(PyroELBO):
    r"""The ELBO, every term by Monte Carlo, :math:`E_q[\log p(x, z) - \log q(z|x)]`.

    The gradient comes back along the draws of reparametrised sites (SGVB), and by the score
    function without a baseline at the others. Arguments as for `Objective`.

    Source:
        D. P. Kingma, M. Welling (2014). Auto-encoding variational Bayes.
    """

    assumes = "nothing"
    elbo = pyro.infer.Trace_ELBO

    def forward_captured(self, batch: TensorDict, kl_weight: float | Tensor = 1.0) -> Tensor:
        """The same value and gradient from our own log weights: Pyro's loss reads numbers."""
        if not self.has_paths:
            return super().forward_captured(batch, kl_weight)
        self.kl_weights.warmup = kl_weight
        problem = self.problem.on(batch)
        scores = problem.score_draws(problem.draw(self.num_particles), self.kl_weights)
        return self.loss(scores.log_weights, scores.log_global)
