r"""Wake-sleep: the story learns from real rows, the guide from rows that the story generates."""

__all__ = ["WakeSleep"]

import torch
from torch import Tensor

from ppvae.objectives.base import Objective, with_gradient_of
from ppvae.objectives.sleep import sleep_log_prob
from ppvae.story import TensorDict


class WakeSleep(Objective):
    r"""The story learns from data, the guide from generated rows, :math:`E_q \log p(x, z)` and
    :math:`E_p \log q(z|x)`.

    The guide's step is no gradient of the ELBO: it covers the posteriors of rows that the story
    generates, rather than fit into those of the data. It needs neither a path nor a baseline. The
    loss is minus the ELBO. Arguments as for `Objective`, with `beta` 1.

    Raises:
        ValueError: If there are global latent sites: each generated row would have its own.

    Source:
        G. E. Hinton, P. Dayan, B. J. Frey, R. M. Neal (1995). The wake-sleep algorithm for
        unsupervised neural networks.
    """

    assumes = "local sites, a story that generates its data"
    is_bound_on = "elbo"
    takes_weight = False

    def check(self) -> None:
        self.problem.check_independent_rows("wake_sleep")
        sleep_log_prob(self.problem.rows(slice(0, 2)))

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        problem = self.problem.on(batch)
        with torch.no_grad():
            drawn = problem.draw(self.num_particles)
        scores = problem.score_draws(drawn)
        steps = scores.log_joint.mean() + sleep_log_prob(problem).mean()
        return with_gradient_of(-steps, -scores.log_weights.mean())
