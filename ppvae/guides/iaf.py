r"""Inverse autoregressive flow: noise bent by autoregressive networks that see the row."""

__all__ = ["IAF"]

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
from torch import nn

from ppvae.guides.base import Guide
from ppvae.guides.contract import positive
from ppvae.guides.flows import AutoregressiveTransport, Pushforward
from ppvae.story import TensorDict


class IAF(Guide):
    r"""A Gaussian bent by an inverse autoregressive flow, :math:`u = \mu(x) + \sigma(x) T(\epsilon; c(x))`.

    Assumes a posterior that a smooth one-to-one map can make from a Gaussian (one piece, any correlation and
    skew). Starts as `MeanField` and contains it. Other arguments as for `Guide`.

    Arguments:
        num_layers: Number of autoregressive layers; the order of the latent numbers is reversed in between.
        flow_hidden: Hidden widths of each layer's network.
        context: Length of the context vector that the encoder gives the flow.

    Raises:
        ValueError: If the story has a single latent number: there is nothing to be autoregressive in.

    Source:
        D. P. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling (2016). Improving variational
        inference with inverse autoregressive flow.
    """

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
        self._options = (num_layers, tuple(flow_hidden), context)
        super().__init__(story, data, **options)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"loc": (dim,), "raw_scale": (dim,), "context": (self._options[2],)}

    def make_transport(self, dim: int) -> nn.Module:
        num_layers, hidden, context = self._options
        if dim < 2:
            raise ValueError(
                "expected at least two latent numbers for an autoregressive flow, got 1; use mean_field"
            )
        return AutoregressiveTransport(dim, context, num_layers, hidden)

    def family(self, parameters: TensorDict, transport: Any) -> dist.Distribution:
        scale = positive(parameters["raw_scale"])
        return Pushforward(parameters["loc"], scale, parameters["context"], transport)
