r"""What the flow families share: a Gaussian for each row, bent by networks that see it."""

__all__ = ["FlowGuide", "squashed"]

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive, refuse_below_one
from ppvae.guides.pushforward import Conditioned, Pushforward
from ppvae.story import TensorDict

MAX_CONTEXT = 3.0


class FlowGuide(Guide):
    r"""A guide :math:`u = \mu(x) + \sigma(x) T(\epsilon; c(x))`, which starts next to `MeanField`.

    The networks T see a context squashed into (-3, 3): a row far from all that they were trained on
    is bent in a way that they know, not one that they extrapolate. A family gives them in
    `make_transport`. Other arguments as for `Guide`.

    Arguments:
        context: Length of the context vector c that the encoder gives the networks.

    Raises:
        ValueError: If the context has no number.
    """

    def __init__(self, story: nn.Module, data: Any, *, context: int = 16, **options: Any) -> None:
        refuse_below_one(context=context)
        self._context = context
        super().__init__(story, data, **options)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"loc": (dim,), "raw_scale": (dim,), "context": (self._context,)}

    def family(self, parameters: TensorDict, transport: Any) -> Pushforward:
        transform = Conditioned(transport, squashed(parameters["context"]))
        return Pushforward(parameters["loc"], positive(parameters["raw_scale"]), transform)


def squashed(raw: Tensor) -> Tensor:
    """The identity near 0, and never beyond `MAX_CONTEXT`."""
    return raw / (1 + raw.abs() / MAX_CONTEXT)
