r"""What planar and Sylvester flows share: steps :math:`s \mapsto s + a \tanh(c s + b)`, and their inverse."""

__all__ = ["at_least_minus_one", "root"]

import math

import torch
import torch.nn.functional as F
from torch import Tensor

INVERSE_SOFTPLUS_OF_ONE = math.log(math.e - 1)
NUM_HALVINGS, NUM_STEPS = 30, 3


def at_least_minus_one(raw: Tensor) -> Tensor:
    """A number above -1 from an unconstrained one: 0 at 0."""
    return F.softplus(raw + INVERSE_SOFTPLUS_OF_ONE) - 1


def root(y: Tensor, a: Tensor, c: Tensor, b: Tensor) -> Tensor:
    r"""The one :math:`s` with :math:`s + a \tanh(c s + b) = y`, for :math:`a c > -1`, entry by entry.

    Bisection, then Newton's steps held between the bounds; the last one carries the gradients.

    Arguments:
        y: Any shape; the others broadcast with it.
        a: Height of the bend.
        c: Its steepness.
        b: Its place.
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
