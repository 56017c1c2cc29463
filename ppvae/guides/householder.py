r"""Householder: a diagonal Gaussian turned by reflections that depend on the row."""

__all__ = ["Householder", "Reflections"]

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import diagonal, positive, refuse_below_one
from ppvae.guides.pushforward import Pushforward
from ppvae.guides.residual import reflect
from ppvae.story import TensorDict


class Householder(Guide):
    r"""A diagonal Gaussian turned by reflections,
    :math:`u = \mu + H_1 \cdots H_T (\sigma \epsilon)`, :math:`H_t = I - 2 v_t v_t^T / |v_t|^2`.

    Assumes that the posterior is Gaussian on unconstrained space; with `d` reflections it is as
    rich as `FullRank`. The reflections start at the axes, where they leave a diagonal Gaussian as
    it is. Other arguments as for `Guide`.

    Arguments:
        num_steps: Number T of reflections; never more than the latent numbers of a row are used.

    Raises:
        ValueError: If `num_steps` is below 1.

    Source:
        J. M. Tomczak, M. Welling (2016). Improving variational auto-encoders using Householder
        flow.
    """

    def __init__(self, story: nn.Module, data: Any, *, num_steps: int = 8, **options: Any) -> None:
        refuse_below_one(num_steps=num_steps)
        self._num_steps = num_steps
        super().__init__(story, data, **options)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"loc": (dim,), "raw_scale": (dim,)}
        if dim > 1:  # one number has no direction to turn to
            shapes["turns"] = (min(self._num_steps, dim), dim)
        return shapes

    def family(self, parameters: TensorDict, transport: Any) -> Distribution:
        if "turns" not in parameters:
            return diagonal(parameters)
        loc, turns = parameters["loc"], parameters["turns"]
        axes = torch.eye(loc.shape[-1]).to(loc)[: turns.shape[-2]]
        turned = Reflections(positive(parameters["raw_scale"]), axes + turns)
        return Pushforward(loc, torch.ones_like(loc), turned)


class Reflections:
    """Noise scaled, then reflected.

    Arguments:
        scale: `(B, d)`, positive.
        vectors: What each reflection turns over, `(B, T, d)`.
    """

    def __init__(self, scale: Tensor, vectors: Tensor) -> None:
        self.scale = scale
        self.units = nn.functional.normalize(vectors, dim=-1).unbind(-2)

    def __call__(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """`(*, B, d)` to `v` `(*, B, d)` and log |det dv/deps| `(B,)`."""
        v = self.scale * eps
        for unit in reversed(self.units):
            v = reflect(v, unit)
        return v, self.scale.log().sum(-1)

    def inverse(self, v: Tensor) -> Tensor:
        """The noise that is sent to `v`, `(*, B, d)`: a reflection is its own inverse."""
        for unit in self.units:
            v = reflect(v, unit)
        return v / self.scale
