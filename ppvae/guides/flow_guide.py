r"""What the flow families share: a Gaussian start for each row, a context vector, and networks that bend it."""

__all__ = ["FlowGuide"]

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive
from ppvae.guides.flows import AutoregressiveTransport, Pushforward
from ppvae.story import TensorDict

MAX_CONTEXT = 3.0


class FlowGuide(Guide):
    r"""A guide of the form :math:`u = \mu(x) + \sigma(x) T(\epsilon; c(x))`, which starts next to `MeanField`.

    The networks see a context squashed into (-3, 3): a row far from all that they were trained on gets a bend
    that they know, not one extrapolated. Other arguments as for `Guide`.

    Arguments:
        num_layers: Number of layers; the order of the latent numbers is reversed in between.
        flow_hidden: Hidden widths of each layer's network.
        context: Length of the context vector that the encoder gives the flow.

    Attributes:
        min_dim: Latent numbers that a row must have for the layers to say more than `MeanField`.

    Raises:
        ValueError: If the story has fewer latent numbers than that.
    """

    min_dim = 2

    def __init__(
        self,
        story: nn.Module,
        data: Any,
        *,
        num_layers: int = 2,
        flow_hidden: Sequence[int] = (64,),
        context: int = 16,
        **options: Any,
    ) -> None:
        if min(num_layers, context, *flow_hidden) < 1:
            raise ValueError(
                f"expected num_layers, flow_hidden and context of at least 1, got {num_layers}, "
                f"{tuple(flow_hidden)} and {context}"
            )
        self._options = (num_layers, tuple(flow_hidden), context)
        super().__init__(story, data, **options)

    @abstractmethod
    def layers(self, dim: int, num_layers: int) -> tuple[Sequence[str], int]:
        """The kinds of the layers in order, and how many groups of numbers each bends one after the other."""

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"loc": (dim,), "raw_scale": (dim,), "context": (self._options[2],)}

    def make_transport(self, dim: int) -> nn.Module:
        num_layers, hidden, context = self._options
        if dim < self.min_dim:
            raise ValueError(
                "expected at least two latent numbers for a flow of affine layers, got 1; use nsf, mixture or mean_field"
            )
        kinds, passes = self.layers(dim, num_layers)
        return AutoregressiveTransport(dim, context, kinds, hidden, passes)

    def family(self, parameters: TensorDict, transport: Any) -> dist.Distribution:
        scale = positive(parameters["raw_scale"])
        return Pushforward(parameters["loc"], scale, squashed(parameters["context"]), transport)


def squashed(raw: Tensor) -> Tensor:
    """The identity near 0, and never beyond `MAX_CONTEXT`."""
    return raw / (1 + raw.abs() / MAX_CONTEXT)
