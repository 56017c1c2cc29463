r"""Sylvester: a Gaussian bent along several directions at once, given by the encoder."""

__all__ = ["Sylvester", "SylvesterSteps"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive, refuse_below_one
from ppvae.guides.flow_guide import squashed
from ppvae.guides.pushforward import Pushforward
from ppvae.guides.residual import reflect, root
from ppvae.story import TensorDict


class Sylvester(Guide):
    r"""A Gaussian bent along several directions at once, step by step,
    :math:`v \leftarrow v + Q R \tanh(\tilde R Q^T v + b)`, :math:`u = \mu + \sigma v`.

    `Q` has M orthonormal columns, a product of M reflections; `R` and :math:`\tilde R` are upper
    triangular with diagonals in (−1, 1), so that every step can be undone, one number after the
    other. The steps start as the identity. Other arguments as for `Guide`.

    Arguments:
        num_layers: Number T of steps.
        width: Directions M that a step bends; never more than the latent numbers of a row.

    Raises:
        ValueError: If `num_layers` or `width` is below 1, or a row has a single latent number.

    Source:
        R. van den Berg, L. Hasenclever, J. M. Tomczak, M. Welling (2018). Sylvester normalizing
        flows for variational inference.
    """

    def __init__(
        self, story: nn.Module, data: Any, *, num_layers: int = 4, width: int = 8, **options: Any
    ) -> None:
        refuse_below_one(num_layers=num_layers, width=width)
        self._num_layers, self._width = num_layers, width
        super().__init__(story, data, **options)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        if dim < 2:
            raise ValueError(
                "expected at least two latent numbers for sylvester, got 1; use planar, mixture or "
                "mean_field"
            )
        layers, width = self._num_layers, min(self._width, dim)
        square = (layers, width, width)
        return {
            "loc": (dim,), "raw_scale": (dim,), "turns": (layers, width, dim),
            "outer": square, "inner": square, "shift": (layers, width),
        }  # fmt: skip

    def family(self, parameters: TensorDict, transport: Any) -> Pushforward:
        loc, scale = parameters["loc"], positive(parameters["raw_scale"])
        width, dim = parameters["turns"].shape[-2:]
        basis = orthonormal_columns(torch.eye(dim).to(loc)[:width] + parameters["turns"])
        outer = triangle(squashed(parameters["outer"]))
        # The inner triangle starts at half the identity: at 0 neither triangle would ever move.
        inner = triangle(0.5 * torch.eye(width).to(loc) + squashed(parameters["inner"]))
        return Pushforward(loc, scale, SylvesterSteps(basis, outer, inner, parameters["shift"]))


class SylvesterSteps:
    r"""The steps of each row.

    Arguments:
        basis: Q, `(B, T, d, M)`, orthonormal columns.
        outer: R, `(B, T, M, M)`, upper triangular.
        inner: :math:`\tilde R`, `(B, T, M, M)`, upper triangular.
        shift: b, `(B, T, M)`.
    """

    def __init__(self, basis: Tensor, outer: Tensor, inner: Tensor, shift: Tensor) -> None:
        parts = (*(t.unbind(-3) for t in (basis, outer, inner)), shift.unbind(-2))
        self.steps = list(zip(*parts, strict=True))

    def __call__(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """`(*, B, d)` to `v` `(*, B, d)` and log |det dv/deps| `(*, B)`."""
        v, log_det = eps, eps.new_zeros(eps.shape[:-1])
        for basis, outer, inner, shift in self.steps:
            bend = (_times(inner, _times(basis.mT, v)) + shift).tanh()
            v = v + _times(basis, _times(outer, bend))
            slope = _diagonal(outer) * _diagonal(inner)
            log_det = log_det + (slope * (1 - bend.square())).log1p().sum(-1)
        return v, log_det

    def inverse(self, v: Tensor) -> Tensor:
        """The noise that is sent to `v`, `(*, B, d)`."""
        for basis, outer, inner, shift in reversed(self.steps):
            bend = _bend_before(_times(basis.mT, v), outer, inner, shift)
            v = v - _times(basis, _times(outer, bend))
        return v


def _bend_before(y: Tensor, outer: Tensor, inner: Tensor, shift: Tensor) -> Tensor:
    r"""From :math:`y = s + R \tanh(\tilde R s + b)` to its tanh, back from the last number."""
    s: list[Tensor] = []
    bend: list[Tensor] = []
    for i in reversed(range(y.shape[-1])):
        rest = y[..., i] - sum(outer[..., i, i + 1 + j] * b for j, b in enumerate(bend))
        offset = shift[..., i] + sum(inner[..., i, i + 1 + j] * t for j, t in enumerate(s))
        slope = inner[..., i, i]
        one = root(rest, outer[..., i, i], slope, offset)
        s.insert(0, one)
        bend.insert(0, (slope * one + offset).tanh())
    return torch.stack(bend, -1)


def orthonormal_columns(turns: Tensor) -> Tensor:
    """The first M axes, reflected at each of the M vectors `(*, M, d)`: `(*, d, M)`."""
    width, dim = turns.shape[-2:]
    axes = torch.eye(dim).to(turns)[:width].expand(*turns.shape[:-2], width, dim)
    units = nn.functional.normalize(turns, dim=-1)
    for i in reversed(range(width)):
        axes = reflect(axes, units[..., i, None, :])
    return axes.mT


def triangle(raw: Tensor) -> Tensor:
    """Upper triangular, its diagonal in (-1, 1): 0 at 0."""
    return raw.triu(1) + torch.diag_embed(_diagonal(raw).tanh())


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
