r"""Sylvester: a Gaussian bent along several directions at once, which the encoder turns as it likes."""

__all__ = ["Sylvester", "SylvesterLayers"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive
from ppvae.guides.flow_guide import squashed
from ppvae.guides.flows import Pushforward
from ppvae.guides.residual import root
from ppvae.story import TensorDict


class Sylvester(Guide):
    r"""A Gaussian bent along several directions at once, step by step,
    :math:`v \leftarrow v + Q R \tanh(\tilde R Q^T v + b)`, :math:`u = \mu + \sigma v`.

    `Q` has M orthonormal columns, a product of M reflections; `R` and :math:`\tilde R` are upper triangular with
    diagonals in (−1, 1), so that every step can be undone, one number after the other. The steps start as the identity.
    Other arguments as for `Guide`.

    Arguments:
        num_layers: Number T of steps.
        width: Directions M that a step bends; never more than the latent numbers of a row.

    Raises:
        ValueError: If `num_layers` or `width` is below 1, or a row has a single latent number.

    Source:
        R. van den Berg, L. Hasenclever, J. M. Tomczak, M. Welling (2018). Sylvester normalizing flows for variational
        inference.
    """

    def __init__(
        self, story: nn.Module, data: Any, *, num_layers: int = 4, width: int = 8, **options: Any
    ) -> None:
        if min(num_layers, width) < 1:
            raise ValueError(
                f"expected num_layers and width of at least 1, got {num_layers} and {width}"
            )
        self._num_layers, self._width = num_layers, width
        super().__init__(story, data, **options)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        if dim < 2:
            raise ValueError(
                "expected at least two latent numbers for sylvester, got 1; use planar, mixture or mean_field"
            )
        layers, width = self._num_layers, min(self._width, dim)
        return {
            "loc": (dim,), "raw_scale": (dim,), "turns": (layers, width, dim),
            "outer": (layers, width, width), "inner": (layers, width, width), "shift": (layers, width),
        }  # fmt: skip

    def family(self, parameters: TensorDict, transport: Any) -> Pushforward:
        loc, scale = parameters["loc"], positive(parameters["raw_scale"])
        width, dim = parameters["turns"].shape[-2:]
        turns = torch.eye(dim).to(loc)[:width] + parameters["turns"]
        # The inner triangle starts at half the identity: at 0 neither triangle would ever move.
        inner = 0.5 * torch.eye(width).to(loc) + squashed(parameters["inner"])
        parts = [turns, squashed(parameters["outer"]), inner]
        context = torch.cat([*(p.flatten(-3) for p in parts), parameters["shift"].flatten(-2)], -1)
        return Pushforward(loc, scale, context, SylvesterLayers(self._num_layers, width, dim))


@dataclass(frozen=True)
class Step:
    """One step of a row: `Q` `(*, d, M)`, `R` and `R~` `(*, M, M)`, `b` `(*, M)`."""

    basis: Tensor
    outer: Tensor
    inner: Tensor
    shift: Tensor


class SylvesterLayers:
    """The steps; the context of a row is its reflections, triangles and shifts side by side.

    Arguments:
        num_layers: Number T of steps.
        width: Directions M that a step bends.
        dim: Length d of the noise.
    """

    def __init__(self, num_layers: int, width: int, dim: int) -> None:
        self.num_layers, self.width, self.dim = num_layers, width, dim

    def __call__(self, eps: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """`(*, d)` and `(*, context)` to `v` `(*, d)` and log |det dv/deps| `(*,)`."""
        v, log_det = eps, eps.new_zeros(eps.shape[:-1])
        for step in self._steps(context):
            bend = (_times(step.inner, _times(step.basis.mT, v)) + step.shift).tanh()
            v = v + _times(step.basis, _times(step.outer, bend))
            slope = _diagonal(step.outer) * _diagonal(step.inner)
            log_det = log_det + (slope * (1 - bend.square())).log1p().sum(-1)
        return v, log_det

    def inverse(self, v: Tensor, context: Tensor) -> Tensor:
        """The noise that is sent to `v`, `(*, d)`."""
        for step in reversed(self._steps(context)):
            bend = self._bend_before(_times(step.basis.mT, v), step)
            v = v - _times(step.basis, _times(step.outer, bend))
        return v

    def _bend_before(self, y: Tensor, step: Step) -> Tensor:
        r"""The :math:`\tanh(\tilde R s + b)` that was added, from :math:`y = s + R \tanh(\tilde R s + b)`: back from the
        last number, on which no other hangs."""
        s: list[Tensor] = []
        bend: list[Tensor] = []
        for i in reversed(range(self.width)):
            outer, inner = step.outer[..., i, :], step.inner[..., i, :]
            rest = y[..., i] - sum(outer[..., i + 1 + j] * b for j, b in enumerate(bend))
            shift = step.shift[..., i] + sum(inner[..., i + 1 + j] * t for j, t in enumerate(s))
            one = root(rest, outer[..., i], inner[..., i], shift)
            s.insert(0, one)
            bend.insert(0, (inner[..., i] * one + shift).tanh())
        return torch.stack(bend, -1)

    def _steps(self, context: Tensor) -> list[Step]:
        width, square = self.width, self.width**2
        sizes = [self.num_layers * n for n in (width * self.dim, square, square, width)]
        turns, outer, inner, shift = context.split(sizes, -1)
        turns = turns.unflatten(-1, (self.num_layers, width, self.dim))
        outer, inner = (
            _triangle(t.unflatten(-1, (self.num_layers, width, width))) for t in (outer, inner)
        )
        parts = _basis(turns), outer, inner, shift.unflatten(-1, (self.num_layers, width))
        layers = [Step(*(p.select(p.dim() - n, t) for p, n in zip(parts, (3, 3, 3, 2), strict=True)))
                  for t in range(self.num_layers)]  # fmt: skip
        return layers


def _basis(turns: Tensor) -> Tensor:
    """Orthonormal columns `(*, d, M)`: the first M axes, reflected at each of the M vectors `(*, M, d)`."""
    units = nn.functional.normalize(turns, dim=-1)
    width, dim = turns.shape[-2:]
    columns = torch.eye(dim).to(turns)[:, :width].expand(*turns.shape[:-2], dim, width)
    for i in reversed(range(width)):
        unit = units[..., i, :].unsqueeze(-1)  # (*, d, 1)
        columns = columns - 2 * unit * (unit.mT @ columns)
    return columns


def _triangle(raw: Tensor) -> Tensor:
    """Upper triangular, its diagonal in (-1, 1): 0 at 0."""
    return raw.triu(1) + torch.diag_embed(_diagonal(raw).tanh())


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
