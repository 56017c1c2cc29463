r"""Householder: a diagonal Gaussian turned by reflections that depend on the row."""

__all__ = ["Householder", "Reflections"]

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive
from ppvae.guides.flows import Pushforward
from ppvae.story import TensorDict


class Householder(Guide):
    r"""A diagonal Gaussian turned by reflections, :math:`u = \mu + H_1 \cdots H_T (\sigma \epsilon)`,
    :math:`H_t = I - 2 v_t v_t^T / |v_t|^2`.

    Assumes that the posterior is Gaussian on unconstrained space; with `d` reflections it is as rich as `FullRank`.
    The reflections start at the axes, where they leave a diagonal Gaussian as it is. Other arguments as for
    `Guide`.

    Arguments:
        num_steps: Number T of reflections; never more than the latent numbers of a row are used.

    Raises:
        ValueError: If `num_steps` is below 1.

    Source:
        J. M. Tomczak, M. Welling (2016). Improving variational auto-encoders using Householder flow.
    """

    def __init__(self, story: nn.Module, data: Any, *, num_steps: int = 8, **options: Any) -> None:
        if num_steps < 1:
            raise ValueError(f"expected at least one reflection, got num_steps = {num_steps}")
        self._num_steps = num_steps
        super().__init__(story, data, **options)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"loc": (dim,), "raw_scale": (dim,)}
        if dim > 1:  # one number has no direction to turn to
            shapes["turns"] = (min(self._num_steps, dim), dim)
        return shapes

    def family(self, parameters: TensorDict, transport: Any) -> dist.Distribution:
        loc, scale = parameters["loc"], positive(parameters["raw_scale"])
        if "turns" not in parameters:
            return dist.Normal(loc, scale).to_event(1)
        axes = torch.eye(loc.shape[-1]).to(loc)[: parameters["turns"].shape[-2]]
        context = torch.cat([scale, (axes + parameters["turns"]).flatten(-2)], -1)
        return Pushforward(loc, torch.ones_like(loc), context, Reflections())


class Reflections:
    """Noise scaled, then reflected; the context of a row is its scales and its vectors side by side."""

    def __call__(self, eps: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """`(*, d)` and `(*, d + T d)` to `v` `(*, d)` and log |det dv/deps| `(*,)`."""
        scale, vectors = self._parts(context, eps.shape[-1])
        v = scale * eps
        for vector in reversed(vectors):
            v = _reflect(v, vector)
        return v, scale.log().sum(-1)

    def inverse(self, v: Tensor, context: Tensor) -> Tensor:
        """The noise that is sent to `v`, `(*, d)`: a reflection is its own inverse."""
        scale, vectors = self._parts(context, v.shape[-1])
        for vector in vectors:
            v = _reflect(v, vector)
        return v / scale

    @staticmethod
    def _parts(context: Tensor, dim: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        parts = context.split(dim, -1)
        return parts[0], tuple(nn.functional.normalize(p, dim=-1) for p in parts[1:])


def _reflect(v: Tensor, unit: Tensor) -> Tensor:
    return v - 2 * (v * unit).sum(-1, keepdim=True) * unit
