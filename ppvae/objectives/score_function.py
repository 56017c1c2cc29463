r"""Score function: the gradient of the ELBO for any guide whose density is known."""

__all__ = ["ScoreFunction"]

from typing import Any

from torch import Tensor

from ppvae.objectives.base import Objective, with_gradient_of
from ppvae.objectives.baselines import BASELINES
from ppvae.problem import Problem
from ppvae.problem.draws import draw_detached
from ppvae.story import TensorDict, has_missing

ROWS_TO_LOOK_AT = 2000


class ScoreFunction(Objective):
    r"""The ELBO by score function, :math:`E_q[(\log w - c) \nabla \log q(z|x) + \nabla \log p(x,
    z)]`.

    Needs no derivative of the story by z, and pays for it with a noise that the baseline c takes
    the worst of. Global sites keep their path. Other arguments as for `Objective`.

    Arguments:
        baseline: `none`; `average`, a decaying average of the signal; or `neural`, a network of the
            row beside it (NVIL).

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
        problem: Problem,
        *,
        baseline: str = "average",
        **options: Any,
    ) -> None:
        if baseline not in BASELINES:
            raise ValueError(f"expected a baseline among {', '.join(BASELINES)}; got '{baseline}'")
        super().__init__(problem, **options)
        masked = [k for k, v in problem.batch.items() if has_missing(v)]
        few = problem.rows(slice(0, ROWS_TO_LOOK_AT)).batch
        self.baseline = baseline
        self.guess = BASELINES[baseline](few, masked)

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        self.kl_weights.warmup = kl_weight
        problem = self.problem.on(batch)
        drawn = draw_detached(problem, self.num_particles)
        scores = problem.score_draws(drawn, self.kl_weights)
        signal, guess = scores.log_weights.detach(), self.guess(batch)
        surrogate = scores.log_joint + (signal - guess.detach()) * drawn.local
        fit = self.guess.learn(guess, signal)
        gradient = self.loss(surrogate, scores.log_global) + fit
        return with_gradient_of(gradient, self.loss(signal, scores.log_global))
