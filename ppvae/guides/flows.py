r"""Normalizing flows as guides: a standard normal pushed through networks. The only file that knows zuko."""

__all__ = ["AutoregressiveTransport", "Pushforward", "RowNetworks"]

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints
from torch.func import functional_call


@contextmanager
def _keeping_validation() -> Iterator[None]:
    """zuko switches argument validation off for the whole process when it is imported: put it back."""
    before = Distribution._validate_args
    yield
    Distribution.set_default_validate_args(before)


with _keeping_validation():
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform
    from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

LOG_SQRT_2_PI = 0.9189385332046727
NEXT_TO_IDENTITY = 1e-2
BINS = 8
# Kind of layer -> the map of one number, and the shapes of its parameters; zero parameters are the identity.
# zuko bounds both: slopes lie in [1e-3, 1e3], and a spline is the identity outside [-5, 5].
UNIVARIATES: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
    "affine": (MonotonicAffineTransform, ((), ())),
    "spline": (MonotonicRQSTransform, ((BINS,), (BINS,), (BINS - 1,))),
}


class AutoregressiveTransport(nn.Module):
    r"""Autoregressive layers with the order of the numbers reversed in between.

    One pass from noise to `u`; the inverse takes `passes` passes a layer.

    Arguments:
        dim: Length `d` of `u`.
        context: Length of the context vector.
        kinds: The kind of each layer, a key of `UNIVARIATES`.
        hidden: Hidden widths of each layer's masked network.
        passes: Groups of numbers that a layer bends one after the other; `d` (None) is fully autoregressive, 2
            is a coupling.
    """

    def __init__(
        self,
        dim: int,
        context: int,
        kinds: Sequence[str],
        hidden: Sequence[int],
        passes: int | None = None,
    ) -> None:
        super().__init__()
        forward, backward = torch.arange(dim), torch.arange(dim).flip(0)
        self.layers = nn.ModuleList(
            MaskedAutoregressiveTransform(
                dim,
                context,
                passes=passes,
                order=backward if i % 2 else forward,
                univariate=UNIVARIATES[kind][0],
                shapes=UNIVARIATES[kind][1],
                hidden_features=tuple(hidden),
                activation=nn.ELU,
            )
            for i, kind in enumerate(kinds)
        )
        for layer in self.layers:  # start next to the identity: the flow begins as mean-field
            last: Any = [m for m in layer.modules() if hasattr(m, "weight")][-1]
            with torch.no_grad():
                last.weight.mul_(NEXT_TO_IDENTITY)
                last.bias.zero_()

    def forward(self, eps: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """`(*, d)` and `(*, context)` to `v` `(*, d)` and log |det dv/deps| `(*,)`."""
        log_det = eps.new_zeros(eps.shape[:-1])
        for layer in self.layers:
            eps, part = layer(context).call_and_ladj(eps)
            log_det = log_det + part
        return eps, log_det

    def inverse(self, v: Tensor, context: Tensor) -> Tensor:
        """The noise that `forward` sends to `v`, `(*, d)`."""
        for layer in reversed(self.layers):
            v = layer(context).inv(v)
        return v


class RowNetworks:
    """The same networks with weights of each row's own, batched with `torch.func`.

    Arguments:
        networks: The module that gives the architecture.
        weights: Parameter name -> `(B, *shape)`.
    """

    def __init__(self, networks: nn.Module, weights: dict[str, Tensor]) -> None:
        self.networks, self.weights = networks, weights

    def __call__(self, eps: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """`(*, B, *ones, d)` and `(B, *ones, context)`, as `networks.forward`."""
        return self._each_row(None, eps, context)

    def inverse(self, v: Tensor, context: Tensor) -> Tensor:
        """As `networks.inverse`."""
        return self._each_row("inverse", v, context)

    def reverse(self, u: Tensor, context: Tensor) -> Tensor:
        """As `networks.reverse`."""
        return self._each_row("reverse", u, context)

    def _each_row(self, method: str | None, value: Tensor, context: Tensor) -> Any:
        rows = context.shape[0]
        flat = value.reshape(-1, rows, value.shape[-1]).transpose(0, 1)  # (B, S, d)
        context = context.reshape(rows, context.shape[-1])
        module: nn.Module = self.networks if method is None else _Method(self.networks, method)
        prefix = "" if method is None else "networks."

        def one_row(weights: dict[str, Tensor], value: Tensor, context: Tensor) -> Any:
            named = {prefix + k: w for k, w in weights.items()}
            return functional_call(module, named, (value, context.expand(len(value), -1)))

        result = torch.func.vmap(one_row)(self.weights, flat, context)
        if method is not None:
            return result.transpose(0, 1).reshape(*value.shape[:-1], -1)
        v, log_det = result
        return v.transpose(0, 1).reshape(value.shape), log_det.T.reshape(value.shape[:-1])


class _Method(nn.Module):
    """A module whose forward is another one's method, for `functional_call`."""

    def __init__(self, networks: nn.Module, method: str) -> None:
        super().__init__()
        self.networks, self.method = networks, method

    def forward(self, *args: Tensor) -> Any:
        return getattr(self.networks, self.method)(*args)


class Pushforward(TorchDistribution):
    r"""The law of :math:`u = \mu + \sigma T(\epsilon; c)` for standard normal :math:`\epsilon`.

    Its own samples are scored from the forward pass; foreign samples through the inverse of `transport`.

    Arguments:
        loc: `(B, d)`.
        scale: `(B, d)`, positive.
        context: `(B, context)`.
        transport: `(eps, context) -> (v, log |det|)` with a method `inverse(v, context)`.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        context: Tensor,
        transport: Any,
        batch_shape: Size | None = None,
    ) -> None:
        self.loc, self.scale, self.context, self.transport = loc, scale, context, transport
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(
            loc.shape[:-1] if batch_shape is None else batch_shape,
            loc.shape[-1:],
            validate_args=False,
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Pushforward":
        return Pushforward(self.loc, self.scale, self.context, self.transport, Size(batch_shape))

    def push(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Noise `(*, B, d)` to `u` `(*, B, d)` and log |det du/deps| `(*, B)`."""
        context = self.context
        if not isinstance(self.transport, RowNetworks):
            context = context.expand(*eps.shape[:-1], context.shape[-1])
        v, log_det = self.transport(eps, context)
        return self.loc + self.scale * v, log_det + self.scale.log().sum(-1)

    def pull(self, u: Tensor) -> Tensor:
        """The noise that `push` sends to `u`, `(*, B, d)`."""
        v = (u - self.loc) / self.scale
        context = self.context
        if not isinstance(self.transport, RowNetworks):
            context = context.expand(*v.shape[:-1], context.shape[-1])
        return self.transport.inverse(v, context)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = Size([*sample_shape, *self.batch_shape, *self.event_shape])
        eps = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        u, log_det = self.push(eps)
        self._last = u, _log_standard_normal(eps) - log_det
        return u

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            return self._last[1]
        eps = self.pull(value)
        return _log_standard_normal(eps) - self.push(eps)[1]


def _log_standard_normal(eps: Tensor) -> Tensor:
    return -0.5 * eps.square().sum(-1) - LOG_SQRT_2_PI * eps.shape[-1]
