r"""Reweighted wake-sleep: wake-sleep with importance weights."""

__all__ = ["ReweightedWakeSleep"]

from typing import Any

from torch import Tensor, nn

from ppvae.estimate import log_mean_exp
from ppvae.objectives.base import Objective, with_gradient_of
from ppvae.objectives.sleep import sleep_log_prob
from ppvae.problem import Problem
from ppvae.problem.draws import draw_detached
from ppvae.story import TensorDict


class ReweightedWakeSleep(Objective):
    r"""Wake-sleep with importance weights, :math:`\sum_k \tilde w_k \log p(x, z_k)` for the story
    and :math:`\sum_k \tilde w_k \log q(z_k|x)` for the guide.

    The story's step is IWAE's. The guide's aims at the posterior of the data's own rows (wake), of
    rows that the story generates (sleep), or of both. As K grows the guide's step gets better, not
    noisier. The loss is minus IWAE's bound. Other arguments as for `Objective`, with `beta` 1.

    Arguments:
        sleep_share: Share of the guide's step that comes from generated rows, 0 to 1.

    Raises:
        ValueError: If `sleep_share` lies outside [0, 1], or there are global latent sites.

    Source:
        J. Bornschein, Y. Bengio (2015). Reweighted wake-sleep.
        T. A. Le, A. R. Kosiorek, N. Siddharth, Y. W. Teh, F. Wood (2019). Revisiting reweighted
        wake-sleep for models with stochastic control flow.
    """

    assumes = "local sites, a story that generates its data, several particles"
    is_bound_on = "iwelbo"
    needs_density = True
    takes_weight = False

    def __init__(
        self,
        problem: Problem,
        *,
        sleep_share: float = 0.5,
        **options: Any,
    ) -> None:
        if not 0 <= sleep_share <= 1:
            raise ValueError(f"expected sleep_share between 0 and 1, got {sleep_share}")
        nn.Module.__init__(self)
        self.sleep_share = sleep_share
        super().__init__(problem, **options)

    def check(self) -> None:
        self.problem.check_independent_rows("reweighted_wake_sleep")
        if self.sleep_share:
            sleep_log_prob(self.problem.rows(slice(0, 2)))

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        problem = self.problem.on(batch)
        drawn = draw_detached(problem, self.num_particles)
        scores = problem.score_draws(drawn)
        share = scores.log_weights.detach().softmax(0)
        wake = scores.log_joint + (1 - self.sleep_share) * drawn.local
        steps = (share * wake).sum(0).mean()
        if self.sleep_share:
            sleep = sleep_log_prob(problem)
            steps = steps + self.sleep_share * sleep.mean()
        return with_gradient_of(-steps, -log_mean_exp(scores.log_weights, 0).mean())
