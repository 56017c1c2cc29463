r"""What flows without networks share: steps with a tanh, their inverse, and reflections."""

__all__ = ["at_least_minus_one", "reflect", "root"]

import torch
import torch.nn.functional as F
from torch import Tensor

from ppvae.guides.base import INVERSE_SOFTPLUS_OF_ONE

NUM_HALVINGS, NUM_STEPS = 30, 3


def at_least_minus_one(raw: Tensor) -> Tensor:
    """A number above -1 from an unconstrained one: 0 at 0."""
    return F.softplus(raw + INVERSE_SOFTPLUS_OF_ONE) - 1


def reflect(v: Tensor, unit: Tensor) -> Tensor:
    """Vectors `(*, d)` reflected at the plane across a unit vector `(*, d)`."""
    return v - 2 * (v * unit).sum(-1, keepdim=True) * unit


def root(y: Tensor, a: Tensor, c: Tensor, b: Tensor) -> Tensor:
    r"""The one s with :math:`s + a \tanh(c s + b) = y`, for :math:`a c > -1`, entry by entry.

    Bisection, then Newton's steps held between the bounds; the last one carries the gradients.

    Arguments:
        y: Any shape; the others broadcast with it.
        a: Height of the bend.
        c: Its steepness.
        b: Its offset.
    """
    with torch.no_grad():
        low, high = y - a.abs(), y + a.abs()
        for _ in range(NUM_HALVINGS):
            middle = (low + high) / 2
            above = middle + a * (c * middle + b).tanh() > y
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        s = (low + high) / 2
        for _ in range(NUM_STEPS):
            s = torch.clamp(_newton(s, y, a, c, b), low, high)
    return _newton(s, y, a, c, b)


def _newton(s: Tensor, y: Tensor, a: Tensor, c: Tensor, b: Tensor) -> Tensor:
    bend = (c * s + b).tanh()
    slope = 1 + a * c * (1 - bend.square())
    return s - (s + a * bend - y) / slope.detach()
