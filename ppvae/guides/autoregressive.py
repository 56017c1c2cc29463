r"""Autoregressive flows as guides: the only file that knows zuko."""

__all__ = ["AutoregressiveGuide", "AutoregressiveTransport"]

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppvae.guides.base import refuse_below_one
from ppvae.guides.flow_guide import FlowGuide
from ppvae.guides.pushforward import start_near_zero


@contextmanager
def _keeping_validation() -> Iterator[None]:
    """Importing zuko switches argument validation off for the whole process: put it back."""
    before = Distribution._validate_args
    yield
    Distribution.set_default_validate_args(before)


with _keeping_validation():
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform
    from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

BINS = 8
# Kind of layer -> the map of one number, and the shapes of its parameters; zero parameters are the
# identity. zuko bounds both: slopes lie in [1e-3, 1e3], and a spline is the identity outside [-5,
# 5].
UNIVARIATES: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
    "affine": (MonotonicAffineTransform, ((), ())),
    "spline": (MonotonicRQSTransform, ((BINS,), (BINS,), (BINS - 1,))),
}


class AutoregressiveGuide(FlowGuide):
    r"""A `FlowGuide` of autoregressive layers, each number bent given those before it.

    Arguments:
        num_layers: Number of layers; the order of the latent numbers is reversed in between.
        flow_hidden: Hidden widths of each layer's network.

    Attributes:
        min_dim: Latent numbers that a row must have for the layers to say more than `MeanField`.

    Raises:
        ValueError: If the story has fewer latent numbers than that, or a count or a width is below
            1.
    """

    min_dim = 2

    def __init__(
        self,
        story: nn.Module,
        data: Any,
        *,
        num_layers: int = 2,
        flow_hidden: Sequence[int] = (64,),
        **options: Any,
    ) -> None:
        refuse_below_one(num_layers=num_layers, flow_hidden=flow_hidden)
        self._num_layers, self._hidden = num_layers, tuple(flow_hidden)
        super().__init__(story, data, **options)

    @abstractmethod
    def layers(self, dim: int, num_layers: int) -> tuple[Sequence[str], int]:
        """The kinds of the layers, and how many groups of numbers each bends one after the
        other."""

    def make_transport(self, dim: int) -> nn.Module:
        if dim < self.min_dim:
            raise ValueError(
                "expected at least two latent numbers for a flow of affine layers, got 1; use nsf, "
                "mixture or mean_field"
            )
        kinds, passes = self.layers(dim, self._num_layers)
        return AutoregressiveTransport(dim, self._context, kinds, self._hidden, passes)


class AutoregressiveTransport(nn.Module):
    r"""Autoregressive layers with the order of the numbers reversed in between.

    One pass from noise to `u`; the inverse takes `passes` passes a layer.

    Arguments:
        dim: Length `d` of `u`.
        context: Length of the context vector.
        kinds: The kind of each layer, a key of `UNIVARIATES`.
        hidden: Hidden widths of each layer's masked network.
        passes: Groups of numbers that a layer bends one after the other; `d` (None) is fully
            autoregressive, 2 is a coupling.
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
        for layer in self.layers:
            start_near_zero([m for m in layer.modules() if hasattr(m, "weight")][-1])

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
