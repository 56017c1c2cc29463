r"""Hamiltonian Monte Carlo for many small posteriors at once: chains of all rows move together."""

__all__ = ["Run", "run_chains"]

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Density = Callable[[Tensor], Tensor]

TARGET_ACCEPTANCE = 0.8
MAX_ENERGY_ERROR = 1000.0  # nats; beyond it a trajectory has diverged (Stan's bound)
LONGEST = 12  # leapfrog steps of the longest trajectory, in whitened coordinates about a half turn
NUM_ROUNDS = (
    4  # of warm-up: each re-estimates the covariance of every row, from twice as many steps
)
SHRINK = 5.0  # prior weight, in draws, of a diagonal covariance
# Dual averaging, M. Hoffman, A. Gelman (2014). The no-U-turn sampler.
GAMMA, OFFSET, POWER = 0.05, 10.0, 0.75


@dataclass(frozen=True)
class Run:
    """What the chains did after warm-up.

    Arguments:
        u: Their positions, `(C, N, B, d)`.
        acceptance: Mean acceptance probability of each row, `(B,)`.
        divergences: Trajectories of each row that left the energy surface, `(B,)`.
    """

    u: Tensor
    acceptance: Tensor
    divergences: Tensor


def run_chains(log_density: Density, start: Tensor, num_warmup: int, num_samples: int) -> Run:
    """Run chains with a dense metric and a step size for each row, both tuned in warm-up and then frozen.

    Trajectories have random lengths, so that no direction of a row is stuck in a period.

    Arguments:
        log_density: `(C, B, d)` to `(C, B)`, in nats, up to a constant of each row.
        start: `(C, B, d)`.
        num_warmup: Transitions of warm-up, thrown away.
        num_samples: N transitions that are kept.
    """
    position = start
    num_chains, num_rows, dim = start.shape
    scale = torch.diag_embed(torch.ones(num_rows, dim).to(start))
    step = torch.full((num_rows,), 0.5).to(start)
    sizes = [num_warmup * 2**k // (2**NUM_ROUNDS - 1) for k in range(NUM_ROUNDS)]
    for size in sizes:
        tuner, seen = _StepSize(step), []
        for _ in range(size):
            position, accept, _ = _transition(log_density, position, scale, tuner.current)
            tuner.update(accept.mean(0))
            seen.append(position)
        step = tuner.average
        if size:
            scale = _scale_of(torch.stack(seen[size // 2 :]).flatten(0, 1))
    step = _tuned(log_density, position, scale, step, sizes[0])
    kept = torch.empty(num_chains, num_samples, num_rows, dim).to(start)
    acceptance, divergences = torch.zeros_like(step), torch.zeros_like(step)
    for i in range(num_samples):
        position, accept, diverged = _transition(log_density, position, scale, step)
        kept[:, i] = position
        acceptance += accept.mean(0) / num_samples
        divergences += diverged.sum(0)
    return Run(kept, acceptance, divergences.long())


def _tuned(
    log_density: Density, position: Tensor, scale: Tensor, step: Tensor, size: int
) -> Tensor:
    """The step size that suits the last metric."""
    tuner = _StepSize(step)
    for _ in range(size):
        position, accept, _ = _transition(log_density, position, scale, tuner.current)
        tuner.update(accept.mean(0))
    return tuner.average


def _transition(
    log_density: Density, position: Tensor, scale: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One trajectory of every chain: where it ends, acceptance and divergence `(C, B)`.

    `scale` `(B, d, d)` whitens: u = scale v, and v has a standard normal momentum.
    """
    momentum = torch.randn_like(position)
    start, gradient = _value_and_gradient(log_density, position, scale)
    energy = start - 0.5 * momentum.square().sum(-1)
    size = (step * (0.8 + 0.4 * torch.rand_like(step)))[:, None]
    moved, value = position, start
    for _ in range(int(torch.randint(1, LONGEST + 1, ()))):
        momentum = momentum + 0.5 * size * gradient
        moved = moved + size * torch.einsum("bij,cbj->cbi", scale, momentum)
        value, gradient = _value_and_gradient(log_density, moved, scale)
        momentum = momentum + 0.5 * size * gradient
    change = torch.nan_to_num(value - 0.5 * momentum.square().sum(-1) - energy, nan=-torch.inf)
    accept = change.clamp(max=0).exp()
    takes = (torch.rand_like(accept) < accept)[..., None]
    return torch.where(takes, moved, position), accept, change < -MAX_ENERGY_ERROR


def _value_and_gradient(
    log_density: Density, position: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Density, and its gradient in whitened coordinates."""
    with torch.enable_grad():
        at = position.detach().requires_grad_(True)
        value = log_density(at)
        (gradient,) = torch.autograd.grad(value.sum(), at)
    whitened = torch.einsum("bij,cbi->cbj", scale, torch.nan_to_num(gradient, 0.0, 0.0, 0.0))
    return value.detach(), whitened


def _scale_of(draws: Tensor) -> Tensor:
    """Cholesky factor of each row's covariance, `(n, B, d)` -> `(B, d, d)`, shrunk towards its diagonal."""
    centred = draws - draws.mean(0)
    covariance = torch.einsum("nbi,nbj->bij", centred, centred) / max(1, len(draws) - 1)
    diagonal = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-8))
    weight = len(draws) / (len(draws) + SHRINK * draws.shape[-1])
    return torch.linalg.cholesky(weight * covariance + (1 - weight) * diagonal)


class _StepSize:
    """Dual averaging of each row's log step size towards the target acceptance."""

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
        """Take the mean acceptance of each row, `(B,)`."""
        self.count += 1
        share = 1 / (self.count + OFFSET)
        self.error = (1 - share) * self.error + share * (TARGET_ACCEPTANCE - acceptance)
        self.log_step = self.aim - self.count**0.5 / GAMMA * self.error
        self.log_step = self.log_step.clamp(-9.0, 0.7)
        weight = self.count**-POWER
        self.log_average = weight * self.log_step + (1 - weight) * self.log_average
