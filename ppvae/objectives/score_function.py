r"""Score function: the ELBO's gradient for any guide whose density is known, draws taken as they come."""

__all__ = ["ScoreFunction"]

from typing import Any

from torch import Tensor, nn

from ppvae.data import preview, to_batch
from ppvae.objectives.base import Objective, with_gradient_of
from ppvae.objectives.baselines import BASELINES
from ppvae.problem.draws import draw_detached
from ppvae.problem.weighted import weigh
from ppvae.story import TensorDict, has_missing

ROWS_TO_LOOK_AT = 2000


class ScoreFunction(Objective):
    r"""The ELBO by score function, :math:`E_q[(\log w - c) \nabla \log q(z|x) + \nabla \log p(x, z)]`.

    Needs no derivative of the story by z, and pays for it with a noise that the baseline c takes the worst of. Global sites
    keep their path. Other arguments as for `Objective`.

    Arguments:
        baseline: `none`; `average`, a decaying average of the signal; or `neural`, a network of the row beside it
            (NVIL).

    Raises:
        ValueError: If the baseline is unknown.

    Source:
        R. Ranganath, S. Gerrish, D. M. Blei (2014). Black box variational inference.
        A. Mnih, K. Gregor (2014). Neural variational inference and learning in belief networks.
    """

    assumes = "any local sites, reparametrised global ones"
    is_bound_on = "elbo"
    needs_density = True

    def __init__(
        self,
        story: nn.Module,
        guide: nn.Module,
        data: Any,
        *,
        baseline: str = "average",
        **options: Any,
    ) -> None:
        if baseline not in BASELINES:
            raise ValueError(f"expected a baseline among {', '.join(BASELINES)}; got '{baseline}'")
        super().__init__(story, guide, data, **options)
        rows = preview(data)
        masked = [k for k, v in rows.tensors.items() if has_missing(v)]
        self.baseline = baseline
        self.guess = BASELINES[baseline](to_batch(self, rows, ROWS_TO_LOOK_AT), masked)

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        self.kl_weights.kl_weight = kl_weight
        drawn = draw_detached(self.guide, batch, self.num_particles, self.sites)
        particles = weigh(self.story, batch, self.sites, drawn, self.kl_weights)
        signal, guess = particles.log_weights.detach(), self.guess(batch)
        surrogate = particles.log_joint + (signal - guess.detach()) * drawn.local
        fit = self.guess.learn(guess, signal)
        gradient = self.loss(surrogate, particles.log_shared) + fit
        return with_gradient_of(gradient, self.loss(signal, particles.log_shared))
