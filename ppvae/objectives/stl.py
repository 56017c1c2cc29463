r"""Sticking the landing: the ELBO without the score of the guide in its gradient."""

__all__ = ["StickingTheLanding"]

from torch import Tensor

from ppvae.objectives.base import Objective
from ppvae.problem.draws import draw_with_frozen_density
from ppvae.story import TensorDict


class StickingTheLanding(Objective):
    r"""The ELBO without the score of the guide in its gradient, :math:`\nabla_\phi \log
    w(z_\phi(\epsilon))` with frozen :math:`\log q`.

    The part that is left out, the score of q at its own draws, is zero in expectation. What remains
    vanishes draw by draw where q is the posterior, so that the noise goes as the guide gets there.
    A flow must be inverted for it. Arguments as for `Objective`.

    Source:
        G. Roeder, Y. Wu, D. Duvenaud (2017). Sticking the landing: simple, lower-variance gradient
        estimators for variational inference.
    """

    assumes = "reparametrised sites"
    is_bound_on = "elbo"
    needs_paths = True
    needs_density = True

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        self.kl_weights.warmup = kl_weight
        problem = self.problem.on(batch)
        _, drawn = draw_with_frozen_density(problem, self.num_particles)
        scores = problem.score_draws(drawn, self.kl_weights)
        return self.loss(scores.log_weights, scores.log_global)
