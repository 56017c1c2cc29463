r"""Planar: a Gaussian bent along one direction after the other, each given by the encoder."""

__all__ = ["Planar", "PlanarLayers"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive
from ppvae.guides.flow_guide import squashed
from ppvae.guides.flows import Pushforward
from ppvae.guides.residual import at_least_minus_one, root
from ppvae.story import TensorDict


class Planar(Guide):
    r"""A Gaussian bent along one direction after the other, :math:`v \leftarrow v + a_t \tanh(w_t^T v + b_t)`,
    :math:`u = \mu + \sigma v`.

    Each step squeezes or stretches the space along one direction `w`, so that many are needed in many dimensions. The
    steps start as the identity; the inverse solves one equation of one number a step. Other arguments as for `Guide`.

    Arguments:
        num_layers: Number of steps.

    Raises:
        ValueError: If `num_layers` is below 1.

    Source:
        D. J. Rezende, S. Mohamed (2015). Variational inference with normalizing flows.
    """

    def __init__(self, story: nn.Module, data: Any, *, num_layers: int = 8, **options: Any) -> None:
        if num_layers < 1:
            raise ValueError(f"expected at least one step, got num_layers = {num_layers}")
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
        push, shift = squashed(parameters["push"]), squashed(parameters["shift"])
        context = torch.cat([along.flatten(-2), push.flatten(-2), shift], -1)
        return Pushforward(loc, scale, context, PlanarLayers(self._num_layers))


def first_directions(num_layers: int, dim: int) -> Tensor:
    """Unit vectors on which the steps start, `(T, d)`, the same each time: each axis in turn, from both sides."""
    axes = torch.eye(dim).repeat(num_layers // dim + 1, 1)[:num_layers]
    return axes + 0.3 * torch.randn(num_layers, dim, generator=torch.Generator().manual_seed(0))


class PlanarLayers:
    """The steps; the context of a row is its directions, pushes and shifts side by side.

    Arguments:
        num_layers: Number T of steps.
    """

    def __init__(self, num_layers: int) -> None:
        self.num_layers = num_layers

    def __call__(self, eps: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """`(*, d)` and `(*, 2 T d + T)` to `v` `(*, d)` and log |det dv/deps| `(*,)`."""
        v, log_det = eps, eps.new_zeros(eps.shape[:-1])
        for along, push, shift, slope in self._steps(context, eps.shape[-1]):
            bend = ((v * along).sum(-1) + shift).tanh()
            v = v + push * bend.unsqueeze(-1)
            log_det = log_det + (slope * (1 - bend.square())).log1p()
        return v, log_det

    def inverse(self, v: Tensor, context: Tensor) -> Tensor:
        """The noise that is sent to `v`, `(*, d)`."""
        for along, push, shift, slope in reversed(self._steps(context, v.shape[-1])):
            s = root((v * along).sum(-1), slope, torch.ones_like(slope), shift)
            v = v - push * (s + shift).tanh().unsqueeze(-1)
        return v

    def _steps(self, context: Tensor, dim: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Direction w, push a, shift b and w·a > −1 of each step; the push is corrected along w to keep to that."""
        size = self.num_layers * dim
        along, push, shift = context.split([size, size, self.num_layers], -1)
        along, push = (t.unflatten(-1, (self.num_layers, dim)) for t in (along, push))
        raw = (along * push).sum(-1)
        slope = at_least_minus_one(raw)
        square = along.square().sum(-1).clamp(min=1e-12)
        push = push + ((slope - raw) / square).unsqueeze(-1) * along
        parts = along.unbind(-2), push.unbind(-2), shift.unbind(-1), slope.unbind(-1)
        return list(zip(*parts, strict=True))
