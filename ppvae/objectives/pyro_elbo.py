r"""Pyro's own ELBOs as losses per row: the quickest road where nothing else is asked for."""

__all__ = ["PyroELBO"]

from typing import Any, ClassVar

from pyro.infer import ELBO
from torch import Tensor, nn

from ppvae.objectives.base import Objective
from ppvae.problem import Problem
from ppvae.problem.kl_weights import KLWeights
from ppvae.story import Batch, TensorDict, num_rows_of, observe, run, scale_rows


class PyroELBO(Objective):
    """One of Pyro's ELBOs; sites in the plate `data` count `N/B` times where global sites stand
    beside them.

    Attributes:
        elbo: The class of Pyro.
    """

    elbo: ClassVar[type[ELBO]]
    is_bound_on = "elbo"

    def __init__(self, problem: Problem, **options: Any) -> None:
        super().__init__(problem, **options)
        story, guide = problem.story, problem.guide
        self.scaled_to = self.num_rows if self.sites.global_latent else None
        programs: list[nn.Module] = [observe(story), guide]
        if self.scaled_to is not None:
            programs = [scale_rows(program, self.num_rows) for program in programs]
        # In a tuple: story and guide are parts of this module already.
        self.programs = tuple(_Tempered(program, self.kl_weights) for program in programs)
        self.estimator: Any = self.elbo(
            num_particles=self.num_particles,
            # An adopted model need not know particle dimensions: one run for each.
            vectorize_particles=self.num_particles > 1 and problem.program.takes_particles,
            max_plate_nesting=self.sites.max_plate_nesting,
        )

    def check(self) -> None:
        if self.problem.enumerated:
            raise ValueError(
                "expected a guide that draws every latent site, and no missing labels, for "
                f"{self.name}, got the sites {list(self.problem.enumerated)}, which are to be "
                "summed over; use enum_elbo"
            )

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        self.kl_weights.warmup = kl_weight
        loss = self.estimator.differentiable_loss(*self.programs, batch)
        return loss / (self.scaled_to or num_rows_of(batch))


class _Tempered(nn.Module):
    def __init__(self, program: nn.Module, kl_weights: KLWeights) -> None:
        super().__init__()
        self.program, self.kl_weights = program, kl_weights

    def forward(self, batch: Batch) -> Any:
        if self.kl_weights.is_idle:
            return run(self.program, batch)
        with self.kl_weights:
            return run(self.program, batch)
