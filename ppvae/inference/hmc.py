r"""Hamiltonian Monte Carlo batched over chains and rows: every row is a target of its own."""

__all__ = ["HMC", "State", "adapt"]

from collections.abc import Callable

import torch
from torch import Tensor

Density = Callable[[Tensor], Tensor]
# Where chains are `(C, B, d)`, the log density there `(C, B)`, its gradient `(C, B, d)`, and whatever else is known of
# the place, chains and rows first.
State = tuple[Tensor, ...]

TARGET_ACCEPTANCE = 0.7
ADAPTATION_RATE = 0.15


class HMC:
    """One transition operator that leaves exp(`log_density`) unchanged, row by row.

    Arguments:
        num_leapfrog: Leapfrog steps of a transition.
    """

    def __init__(self, num_leapfrog: int) -> None:
        self.num_leapfrog = num_leapfrog

    def step(self, log_density: Density, eps: Tensor, step_size: Tensor) -> tuple[Tensor, Tensor]:
        """Move every chain of every row once.

        Arguments:
            log_density: `(C, B, d)` to `(C, B)`, in nats, up to a constant.
            eps: Where the chains are, `(C, B, d)`.
            step_size: Of each row, `(B,)`.

        Returns:
            Where they are next, and the acceptance probability of each `(C, B)`. A proposal whose density is not
            finite is rejected.
        """

        def field(eps: Tensor) -> State:
            return eps, *_value_and_gradient(log_density, eps)

        state, accept = self.walk(field, field(eps), step_size)
        return state[0], accept

    def walk(
        self, field: Callable[[Tensor], State], state: State, step_size: Tensor
    ) -> tuple[State, Tensor]:
        """As `step`, from a state whose density and gradient are known already to the next such state.

        Arguments:
            field: What is known of a place.
            state: Where the chains are.
            step_size: Of each row, `(B,)`.
        """
        step = step_size.unsqueeze(-1)
        eps, start, gradient = state[:3]
        momentum = torch.randn_like(eps)
        energy = start - 0.5 * momentum.square().sum(-1)
        proposed = state
        momentum = momentum + 0.5 * step * gradient
        for i in range(self.num_leapfrog):
            proposed = field(proposed[0] + step * momentum)
            momentum = momentum + (0.5 if i == self.num_leapfrog - 1 else 1.0) * step * proposed[2]
        change = proposed[1] - 0.5 * momentum.square().sum(-1) - energy
        finite = proposed[1].isfinite() & change.isfinite()
        accept = torch.where(finite, change.clamp(max=0).exp(), 0.0)
        moved = torch.rand_like(accept) < accept
        pairs = zip(proposed, state, strict=True)
        return tuple(_chosen(moved, new, old) for new, old in pairs), accept


def _chosen(moved: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Of two tensors `(C, B, *)`, the new one where a chain has moved."""
    return torch.where(moved.reshape(*moved.shape, *(1,) * (new.dim() - 2)), new, old)


def adapt(step_size: Tensor, accept: Tensor) -> Tensor:
    """Step size of each row moved towards the target acceptance; for pilot runs only."""
    error = accept.mean(0) - TARGET_ACCEPTANCE
    return (step_size * (ADAPTATION_RATE * error / (1 - TARGET_ACCEPTANCE)).exp()).clamp(1e-4, 2.0)


def _value_and_gradient(log_density: Density, eps: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        eps = eps.detach().requires_grad_(True)
        value = log_density(eps)
        (gradient,) = torch.autograd.grad(value.sum(), eps)
    return value.detach(), torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
