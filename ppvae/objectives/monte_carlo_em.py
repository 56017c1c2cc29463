r"""Monte Carlo EM: posterior draws by Hamiltonian Monte Carlo at every step, for small data."""

__all__ = ["MonteCarloEM"]

from typing import Any

import torch
from torch import Tensor

from ppvae.inference.annealing_path import Target
from ppvae.inference.hmc import adapt_step_size, evaluate_with, transition
from ppvae.inference.whitening import coordinates_of
from ppvae.objectives.base import Objective
from ppvae.problem import Problem
from ppvae.story import Flat, TensorDict, local_params

FIRST_STEP_SIZE = 0.3


class MonteCarloEM(Objective):
    r"""Expectation-maximisation with posterior draws of Hamiltonian Monte Carlo, :math:`\log p(x,
    z) + \log q(z|x)`.

    The E-step runs chains of Hamiltonian Monte Carlo from draws of the guide (of the Gaussian with
    its moments, if it is none itself), in coordinates where that is a standard normal;
    the M-step moves the story, and the guide follows the chains. Costs `num_moves * num_leapfrog`
    gradients of the story a step. Other arguments as for `Objective`, with `beta` 1; the particles
    are the chains of a row.

    Arguments:
        num_moves: Transitions of each chain in a step.
        num_leapfrog: Leapfrog steps of a transition.

    Raises:
        ValueError: If a site is discrete or global, or there is no move.

    Source:
        G. C. G. Wei, M. A. Tanner (1990). A Monte Carlo implementation of the EM algorithm and the
        poor man's data augmentation algorithms.
    """

    assumes = "continuous local sites, small data"
    takes_weight = False
    log_step_size: Tensor

    def __init__(
        self,
        problem: Problem,
        *,
        num_moves: int = 5,
        num_leapfrog: int = 5,
        **options: Any,
    ) -> None:
        if num_moves < 1 or num_leapfrog < 1:
            raise ValueError(
                f"expected at least one move and one leapfrog step, got {num_moves} and "
                f"{num_leapfrog}"
            )
        super().__init__(problem, **options)
        self.num_moves, self.num_leapfrog = num_moves, num_leapfrog
        self.register_buffer("log_step_size", torch.tensor(FIRST_STEP_SIZE).log())

    def check(self) -> None:
        self.problem.check_independent_rows("monte_carlo_em")
        Flat(self.sites.local_latent)  # refuses discrete sites by name

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        problem = self.problem.on(batch)
        latents = self._posterior_draws(problem)
        return -(problem.log_joint(latents) + problem.log_guide(latents)).mean()

    def _posterior_draws(self, problem: Problem) -> TensorDict:
        """The ends of the chains, site -> `(S, B, *row)`, without gradients."""
        with torch.no_grad(), local_params(self.guide):
            target = Target(problem, coordinates_of(problem))
            evaluate = evaluate_with(target.value_and_grad)
            like = next(iter(problem.batch.values()))
            shape = self.num_particles, problem.num_rows, problem.unconstrained.dim
            state = evaluate(torch.randn(shape).to(like))
            for _ in range(self.num_moves):
                step_size = self.log_step_size.exp().expand(problem.num_rows).to(like)
                state, acceptance, _ = transition(evaluate, state, step_size, self.num_leapfrog)
                if self.training:
                    self.log_step_size.copy_(adapt_step_size(step_size, acceptance).log().mean())
            return target.unflatten(state.position)[0]
