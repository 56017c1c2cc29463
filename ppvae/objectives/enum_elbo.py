r"""Enumerated ELBO: discrete sites that the guide leaves out are summed over exactly."""

__all__ = ["EnumELBO"]

from torch import Tensor

from ppvae.objectives.base import Objective
from ppvae.story import TensorDict


class EnumELBO(Objective):
    r"""The ELBO with the sum over discrete sites y inside, :math:`E_q[\log \sum_y p(x, y, z) - \log
    q(z|x)]`.

    The sum is over the sites that the guide leaves out, and over those that a row misses and others
    show, such as labels. Where nothing is left to draw it is log p(x). It equals Pyro's
    `TraceEnum_ELBO` on a story whose networks broadcast over enumeration dimensions, and asks no
    such thing of the story. Arguments as for `Objective`.

    Source:
        D. P. Kingma, D. J. Rezende, S. Mohamed, M. Welling (2014). Semi-supervised learning with
        deep generative models.
    """

    assumes = "few joint values at the discrete sites, the others reparametrised"
    is_bound_on = "elbo"
    needs_paths = True

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        self.kl_weights.warmup = kl_weight
        problem = self.problem.on(batch)
        drawn = problem.draw(self.num_particles)
        scores = problem.score_draws(drawn, self.kl_weights)
        return self.loss(scores.log_weights, scores.log_global)
