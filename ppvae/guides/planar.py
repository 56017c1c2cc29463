r"""Planar: a Gaussian bent along one direction after the other, each given by the encoder."""

__all__ = ["Planar", "PlanarSteps"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive, refuse_below_one
from ppvae.guides.flow_guide import squashed
from ppvae.guides.pushforward import Pushforward
from ppvae.guides.residual import at_least_minus_one, root
from ppvae.story import TensorDict


class Planar(Guide):
    r"""A Gaussian bent along one direction after the other,
    :math:`v \leftarrow v + a_t \tanh(w_t^T v + b_t)`, :math:`u = \mu + \sigma v`.

    Each step squeezes or stretches the space along one direction `w`, so that many are needed in
    many dimensions. The steps start as the identity; the inverse solves one equation of one number
    a step. Other arguments as for `Guide`.

    Arguments:
        num_layers: Number of steps.

    Raises:
        ValueError: If `num_layers` is below 1.

    Source:
        D. J. Rezende, S. Mohamed (2015). Variational inference with normalizing flows.
    """

    def __init__(self, story: nn.Module, data: Any, *, num_layers: int = 8, **options: Any) -> None:
        refuse_below_one(num_layers=num_layers)
        self._num_layers = num_layers
        super().__init__(story, data, **options)
        start = first_directions(num_layers, self.flat.dim)
        self.register_buffer("start", start, persistent=False)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        each = (self._num_layers, dim)
        return {
            "loc": (dim,), "raw_scale": (dim,), "along": each, "push": each, "shift": each[:1],
        }  # fmt: skip

    def family(self, parameters: TensorDict, transport: Any) -> Pushforward:
        loc, scale = parameters["loc"], positive(parameters["raw_scale"])
        along = self.start.to(loc) + squashed(parameters["along"])
        steps = PlanarSteps(along, squashed(parameters["push"]), squashed(parameters["shift"]))
        return Pushforward(loc, scale, steps)


def first_directions(num_layers: int, dim: int) -> Tensor:
    """Directions at the start, `(T, d)`, the same each time: each axis in turn, slightly moved."""
    axes = torch.eye(dim).repeat(num_layers // dim + 1, 1)[:num_layers]
    return axes + 0.3 * torch.randn(num_layers, dim, generator=torch.Generator().manual_seed(0))


class PlanarSteps:
    r"""The steps of each row. Pushes are corrected along their directions so that
    :math:`w^T a > -1`.

    Arguments:
        along: Directions w, `(B, T, d)`.
        push: Pushes a, `(B, T, d)`.
        shift: b, `(B, T)`.
    """

    def __init__(self, along: Tensor, push: Tensor, shift: Tensor) -> None:
        raw = (along * push).sum(-1)
        slope = at_least_minus_one(raw)
        square = along.square().sum(-1).clamp(min=1e-12)
        push = push + ((slope - raw) / square).unsqueeze(-1) * along
        parts = along.unbind(-2), push.unbind(-2), shift.unbind(-1), slope.unbind(-1)
        self.steps = list(zip(*parts, strict=True))

    def __call__(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """`(*, B, d)` to `v` `(*, B, d)` and log |det dv/deps| `(*, B)`."""
        v, log_det = eps, eps.new_zeros(eps.shape[:-1])
        for along, push, shift, slope in self.steps:
            bend = ((v * along).sum(-1) + shift).tanh()
            v = v + push * bend.unsqueeze(-1)
            log_det = log_det + (slope * (1 - bend.square())).log1p()
        return v, log_det

    def inverse(self, v: Tensor) -> Tensor:
        """The noise that is sent to `v`, `(*, B, d)`."""
        for along, push, shift, slope in reversed(self.steps):
            s = root((v * along).sum(-1), slope, torch.ones_like(slope), shift)
            v = v - push * (s + shift).tanh().unsqueeze(-1)
        return v
