r"""Distributions made by transforming noise, which score their own draws without an inverse."""

__all__ = [
    "Conditioned",
    "Pushforward",
    "RealVector",
    "RowNetworks",
    "ScoredDraws",
    "log_standard_normal",
    "start_near_zero",
]

from abc import abstractmethod
from copy import copy
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn
from torch.distributions import constraints
from torch.func import functional_call, vmap

LOG_SQRT_2_PI = 0.9189385332046727
NEAR_ZERO = 1e-2


class RealVector(TorchDistribution):
    """A distribution over real vectors; its parameters serve any shape they broadcast to.

    Arguments:
        batch_shape: Shape of the rows.
        dim: Length `d` of a vector.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, batch_shape: Size, dim: int) -> None:
        super().__init__(batch_shape, Size([dim]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        expanded = copy(self)
        expanded._batch_shape = Size(batch_shape)
        return expanded


class ScoredDraws(RealVector):
    """A distribution that scores its last draw by how it was made.

    That is exact where an inverse would lose digits, and cheap where an inverse would be slow.
    """

    _last: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def draw(self, shape: Size) -> tuple[Tensor, Tensor]:
        """Draws `(*shape, d)` and their scores `shape`, in nats; `shape` ends with the rows."""

    @abstractmethod
    def score(self, value: Tensor) -> Tensor:
        """The log density of any values `(*, B, d)`, `(*, B)`, in nats."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        self._last = self.draw(Size([*sample_shape, *self.batch_shape]))
        return self._last[0]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            return self._last[1]
        return self.score(value)


class Pushforward(ScoredDraws):
    r"""The distribution of :math:`u = \mu + \sigma T(\epsilon)` for standard normal
    :math:`\epsilon`.

    Arguments:
        loc: :math:`\mu`, `(B, d)`.
        scale: :math:`\sigma`, `(B, d)`, positive.
        transform: T: noise `(*, B, d)` to `v` of that shape and log |det dv/deps|, `(*, B)`; with a
            method `inverse(v)`.
    """

    def __init__(self, loc: Tensor, scale: Tensor, transform: Any) -> None:
        self.loc, self.scale, self.transform = loc, scale, transform
        super().__init__(loc.shape[:-1], loc.shape[-1])

    def push(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Noise `(*, B, d)` to `u` `(*, B, d)` and log |det du/deps| `(*, B)`."""
        v, log_det = self.transform(eps)
        return self.loc + self.scale * v, log_det + self.scale.log().sum(-1)

    def pull(self, u: Tensor) -> Tensor:
        """The noise that `push` sends to `u`, `(*, B, d)`."""
        return self.transform.inverse((u - self.loc) / self.scale)

    def draw(self, shape: Size) -> tuple[Tensor, Tensor]:
        shape = Size([*shape, *self.event_shape])
        eps = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        u, log_det = self.push(eps)
        return u, log_standard_normal(eps) - log_det

    def score(self, value: Tensor) -> Tensor:
        eps = self.pull(value)
        return log_standard_normal(eps) - self.push(eps)[1]


def log_standard_normal(eps: Tensor) -> Tensor:
    """Log density of independent standard normal numbers, `(*, d)` to `(*,)`, in nats."""
    return -0.5 * eps.square().sum(-1) - LOG_SQRT_2_PI * eps.shape[-1]


class Conditioned:
    """Networks of `(value, context)`, at the context of each row.

    Arguments:
        networks: Called with `(*, d)` and `(*, context)`; with a method `inverse`.
        context: `(B, context)`.
    """

    def __init__(self, networks: Any, context: Tensor) -> None:
        self.networks, self.context = networks, context

    def __call__(self, eps: Tensor) -> Any:
        return self.networks(eps, self.beside(eps))

    def inverse(self, v: Tensor) -> Tensor:
        return self.networks.inverse(v, self.beside(v))

    def beside(self, value: Tensor) -> Tensor:
        """The context of each of the values."""
        return self.context.expand(*value.shape[:-1], self.context.shape[-1])


class RowNetworks:
    """Networks with other weights for each row, batched with `torch.func`.

    Arguments:
        networks: The module that gives the architecture, called with `(*, d)` and `(*, context)`.
        weights: Parameter name -> `(B, *shape)`.
    """

    def __init__(self, networks: nn.Module, weights: dict[str, Tensor]) -> None:
        self.networks, self.weights = networks, weights

    def __call__(self, eps: Tensor, context: Tensor) -> Any:
        return self._by_row("forward", eps, context)

    def inverse(self, v: Tensor, context: Tensor) -> Tensor:
        return self._by_row("inverse", v, context)

    def reverse(self, u: Tensor, context: Tensor) -> Tensor:
        return self._by_row("reverse", u, context)

    def _by_row(self, method: str, value: Tensor, context: Tensor) -> Any:
        """Values `(*, B, *ones, d)` and contexts, each with the weights of its row."""
        module = _Method(self.networks, method)
        num_rows = len(next(iter(self.weights.values())))

        def rows_first(t: Tensor) -> Tensor:
            return t.reshape(-1, num_rows, t.shape[-1]).transpose(0, 1)

        def rows_back(t: Tensor) -> Tensor:
            return t.transpose(0, 1).reshape(*value.shape[:-1], *t.shape[2:])

        def one_row(weights: dict[str, Tensor], value: Tensor, context: Tensor) -> Any:
            named = {f"networks.{k}": w for k, w in weights.items()}
            return functional_call(module, named, (value, context))

        result = vmap(one_row)(self.weights, rows_first(value), rows_first(context))
        return tuple(map(rows_back, result)) if isinstance(result, tuple) else rows_back(result)


class _Method(nn.Module):
    """A module whose forward is another one's method, for `functional_call`."""

    def __init__(self, networks: nn.Module, method: str) -> None:
        super().__init__()
        self.networks, self.method = networks, method

    def forward(self, *args: Tensor) -> Any:
        return getattr(self.networks, self.method)(*args)


def start_near_zero(layer: Any) -> None:
    """Shrink a last layer's weights and clear its bias: its transform starts near the identity."""
    with torch.no_grad():
        layer.weight.mul_(NEAR_ZERO)
        layer.bias.zero_()
