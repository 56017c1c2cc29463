r"""IWAE: the importance-weighted bound, row by row."""

__all__ = ["IWAE"]

from torch import Tensor

from ppvae.estimate import log_mean_exp
from ppvae.objectives.base import Objective
from ppvae.problem.draws import draw_path
from ppvae.story import TensorDict


class IWAE(Objective):
    r"""The importance-weighted bound of K particles, :math:`E \log \frac1K \sum_k w_k`, row by row.

    K particles of a row share one draw of the global sites, whose :math:`\log p - \log q` stands
    outside the logarithm. With larger K the bound is tighter, and the encoder's gradient drowns in
    noise: see `DReG`. Arguments as for `Objective`.

    Source:
        Y. Burda, R. Grosse, R. Salakhutdinov (2016). Importance weighted autoencoders.
    """

    assumes = "reparametrised sites"
    is_bound_on = "iwelbo"
    needs_paths = True

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        self.kl_weights.warmup = kl_weight
        problem = self.problem.on(batch)
        drawn = draw_path(problem, self.num_particles, share_globals=True)
        scores = problem.score_draws(drawn, self.kl_weights)
        return self.loss(log_mean_exp(scores.log_weights, 0), scores.log_global)
