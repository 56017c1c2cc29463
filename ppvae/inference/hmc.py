r"""Hamiltonian Monte Carlo batched over chains and rows: every row is a target of its own."""

__all__ = [
    "Chains",
    "DualAveraging",
    "State",
    "adapt_step_size",
    "evaluate_with",
    "run_chains",
    "transition",
]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MAX_ENERGY_ERROR = 1000.0  # nats; beyond it a trajectory has diverged (Stan's bound)
# For a target that changes while the step size is adapted: annealing and training.
TARGET_ACCEPTANCE, ADAPTATION_RATE = 0.7, 0.15
MIN_STEP, MAX_STEP = 1e-4, 2.0
# For a fixed target.
WARMUP_ACCEPTANCE, FIRST_STEP = 0.8, 0.5
# Trajectories around a quarter turn of a whitened posterior: there a draw and its square depend
# least on where they started. Lengths vary, so that no direction of a row is caught in a period.
SHORTEST, LONGEST, MAX_LEAPFROG = 0.25 * math.pi, 0.75 * math.pi, 12
NUM_ROUNDS = 4  # of warm-up: each estimates every row's covariance from twice as many steps
SHRINK = 5.0  # prior weight, in draws, of a diagonal covariance
# Dual averaging, as in the source of `DualAveraging`.
GAMMA, OFFSET, POWER = 0.05, 10.0, 0.75


class State(NamedTuple):
    """Positions of chains and what is known there; a transition carries it along.

    Arguments:
        position: `(C, B, d)`.
        log_density: `(C, B)`, in nats, up to a constant of each row.
        gradient: Of the log density, `(C, B, d)`.
        parts: Whatever else is known there, each `(C, B, *)`.
    """

    position: Tensor
    log_density: Tensor
    gradient: Tensor
    parts: tuple[Tensor, ...] = ()


Evaluate = Callable[[Tensor], State]  # from positions, `(C, B, d)`


def evaluate_with(value_and_grad: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Evaluate:
    """The state at positions, from a function that gives log density and gradient there."""
    return lambda position: State(position, *value_and_grad(position))


def transition(
    evaluate: Evaluate,
    state: State,
    step_size: Tensor,
    num_leapfrog: int,
    scale_tril: Tensor | None = None,
) -> tuple[State, Tensor, Tensor]:
    """One trajectory of every chain, accepted or rejected; leaves the target unchanged.

    Arguments:
        evaluate: The state at given positions.
        state: Where the chains are.
        step_size: Of each row, `(B,)`.
        num_leapfrog: Leapfrog steps.
        scale_tril: L, `(B, d, d)`, of each row: the inverse mass matrix is its product with its
            transpose; None for the identity.

    Returns:
        The next state, the acceptance probability and whether the trajectory diverged, `(C, B)`
        each. A proposal whose density is not finite is rejected.
    """
    step = step_size.unsqueeze(-1)
    momentum = torch.randn_like(state.position)
    energy = state.log_density - 0.5 * momentum.square().sum(-1)
    proposed = state
    for count in range(num_leapfrog + 1):
        kick = 0.5 if count in (0, num_leapfrog) else 1.0
        gradient = proposed.gradient
        if scale_tril is not None:
            gradient = torch.einsum("bij,cbi->cbj", scale_tril, gradient)
        momentum = momentum + kick * step * gradient
        if count < num_leapfrog:
            velocity = momentum
            if scale_tril is not None:
                velocity = torch.einsum("bij,cbj->cbi", scale_tril, momentum)
            proposed = evaluate(proposed.position + step * velocity)
    change = proposed.log_density - 0.5 * momentum.square().sum(-1) - energy
    change = torch.nan_to_num(change, nan=-torch.inf, posinf=torch.inf)
    change = change.masked_fill(~proposed.log_density.isfinite(), -torch.inf)
    acceptance = change.clamp(max=0).exp()
    accepted = torch.rand_like(acceptance) < acceptance
    return _choose(accepted, proposed, state), acceptance, change < -MAX_ENERGY_ERROR


def _choose(accepted: Tensor, proposed: State, state: State) -> State:
    """The proposed state in the chains that accept it, `(C, B)`."""

    def pick(new: Tensor, old: Tensor) -> Tensor:
        mask = accepted.reshape(*accepted.shape, *(1,) * (new.dim() - 2))
        return torch.where(mask, new, old)

    parts = tuple(pick(new, old) for new, old in zip(proposed.parts, state.parts, strict=True))
    return State(
        pick(proposed.position, state.position),
        pick(proposed.log_density, state.log_density),
        pick(proposed.gradient, state.gradient),
        parts,
    )


def adapt_step_size(step_size: Tensor, acceptance: Tensor) -> Tensor:
    """One step of each row's step size, `(B,)`, towards the target acceptance, at a constant rate.

    For targets that change on the way, along a path of temperatures or with a story that is
    trained, where the rate of dual averaging would fall while the right step size still moves.

    Arguments:
        step_size: `(B,)`.
        acceptance: Acceptance probabilities, `(C, B)`.
    """
    error = acceptance.mean(0) - TARGET_ACCEPTANCE
    factor = (ADAPTATION_RATE * error / (1 - TARGET_ACCEPTANCE)).exp()
    return (step_size * factor).clamp(MIN_STEP, MAX_STEP)


class DualAveraging:
    """Adapts each row's step size to a fixed target, so that a mean of `WARMUP_ACCEPTANCE` is
    accepted.

    Arguments:
        start: `(B,)`.

    Attributes:
        current: The step size to try next, `(B,)`.
        average: The step size to keep, `(B,)`.

    Source:
        M. D. Hoffman, A. Gelman (2014). The no-U-turn sampler.
    """

    def __init__(self, start: Tensor) -> None:
        self.aim, self.count = (5 * start).log(), 0
        self.log_step, self.log_average = start.log(), start.log()
        self.error = torch.zeros_like(start)

    @property
    def current(self) -> Tensor:
        return self.log_step.exp()

    @property
    def average(self) -> Tensor:
        return self.log_average.exp()

    def update(self, acceptance: Tensor) -> None:
        """Take the acceptance probabilities of one transition, `(C, B)`."""
        self.count += 1
        share = 1 / (self.count + OFFSET)
        self.error = (1 - share) * self.error + share * (WARMUP_ACCEPTANCE - acceptance.mean(0))
        self.log_step = (self.aim - self.count**0.5 / GAMMA * self.error).clamp(-9.0, 0.7)
        weight = self.count**-POWER
        self.log_average = weight * self.log_step + (1 - weight) * self.log_average


@dataclass(frozen=True)
class Chains:
    """What chains did after warm-up.

    Arguments:
        positions: `(C, N, B, d)`.
        acceptance: Mean acceptance probability of each row, `(B,)`.
        divergences: Trajectories of each row that left the energy surface, `(B,)`.
    """

    positions: Tensor
    acceptance: Tensor
    divergences: Tensor


def run_chains(evaluate: Evaluate, start: Tensor, num_warmup: int, num_samples: int) -> Chains:
    """Run chains with a dense metric and a step size for each row, both tuned in warm-up and then
    fixed.

    Arguments:
        evaluate: The state at given positions.
        start: `(C, B, d)`.
        num_warmup: Transitions of warm-up, thrown away.
        num_samples: N transitions that are kept.
    """
    num_chains, num_rows, dim = start.shape
    scale_tril = torch.diag_embed(torch.ones(num_rows, dim).to(start))
    step, state = torch.full((num_rows,), FIRST_STEP).to(start), evaluate(start)
    sizes = [num_warmup * 2**k // (2**NUM_ROUNDS - 1) for k in range(NUM_ROUNDS)]
    for size in [*sizes, sizes[0]]:  # the last round suits the step size to the last metric
        tuner, positions = DualAveraging(step), []
        for _ in range(size):
            state, acceptance, _ = _random_transition(evaluate, state, tuner.current, scale_tril)
            tuner.update(acceptance)
            positions.append(state.position)
        step = tuner.average
        if size and len(positions) * num_chains > 1:
            scale_tril = _covariance_factor(torch.stack(positions[size // 2 :]).flatten(0, 1))
    kept = torch.empty(num_chains, num_samples, num_rows, dim).to(start)
    mean_acceptance, divergences = torch.zeros_like(step), torch.zeros_like(step)
    for i in range(num_samples):
        state, acceptance, diverged = _random_transition(evaluate, state, step, scale_tril)
        kept[:, i] = state.position
        mean_acceptance += acceptance.mean(0) / num_samples
        divergences += diverged.sum(0)
    return Chains(kept, mean_acceptance, divergences.long())


def _random_transition(
    evaluate: Evaluate, state: State, step_size: Tensor, scale_tril: Tensor
) -> tuple[State, Tensor, Tensor]:
    """A transition of random length and step size."""
    time = SHORTEST + (LONGEST - SHORTEST) * float(torch.rand(()))
    num_leapfrog = max(1, min(MAX_LEAPFROG, math.ceil(time / float(step_size.min()))))
    return transition(
        evaluate, state, step_size.clamp(max=time / num_leapfrog), num_leapfrog, scale_tril
    )


def _covariance_factor(draws: Tensor) -> Tensor:
    """Cholesky factor of each row's covariance, `(n, B, d)` -> `(B, d, d)`, shrunk towards its
    diagonal.
    """
    centred = draws - draws.mean(0)
    covariance = torch.einsum("nbi,nbj->bij", centred, centred) / max(1, len(draws) - 1)
    diagonal = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-8))
    weight = len(draws) / (len(draws) + SHRINK * draws.shape[-1])
    return torch.linalg.cholesky(weight * covariance + (1 - weight) * diagonal)
