r"""Auxiliary: plain Gaussians for every number, given numbers that the guide draws first and then throws away."""

__all__ = ["Auxiliary", "AuxiliaryNetworks"]

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive
from ppvae.guides.flow_guide import squashed
from ppvae.guides.flows import NEXT_TO_IDENTITY, Pushforward
from ppvae.guides.marginal import Extended, Marginal
from ppvae.guides.structured import Cascade
from ppvae.nets import MLP
from ppvae.story import TensorDict


class Auxiliary(Guide):
    r"""A mixture over numbers of the guide's own, :math:`q(u|x) = \int N(u; \mu(x, v), \sigma(x, v)) \, N(v; 0, 1) \, dv`.

    Assumes that the latent numbers are independent given the row and v; over v they may depend on each other, bend, and fall
    into pieces. The density of u has no closed form: with a reverse model :math:`r(v|u, x)`, a Gaussian that learns to guess v
    from u, draws are weighed by :math:`\log w = \log p(x, u) + \log r(v|u, x) - \log q(v, u|x)`. Their weights are right, E w = p(x), and so are
    all bounds; the ELBO is low by :math:`E\,KL(q(v|u, x) \,\|\, r)` beside the usual. Draws of others are scored as `Marginal` says. Other
    arguments as for `Guide`.

    Arguments:
        num_auxiliary: Numbers of v; None takes as many as the row has latent numbers.
        num_layers: Times that one of the two is shifted and scaled by the other: u by v, then v by u, and so on. Odd: 1 is the model
            above, more is a flow over both.
        flow_hidden: Hidden widths of the networks between v and u, and of the reverse model's.
        context: Length of the context vector that the encoder gives these networks.
        num_nodes: Values of v from the reverse model, and as many from where v starts, over which the density at a given u is averaged.

    Raises:
        ValueError: If an option is out of range.

    Source:
        R. Ranganath, D. Tran, D. M. Blei (2016). Hierarchical variational models. L. Maaløe, C. K. Sønderby,
        S. K. Sønderby, O. Winther (2016). Auxiliary deep generative models. C. Cremer, X. Li, D. Duvenaud (2018).
        Inference suboptimality in variational autoencoders (the flow over both).
    """

    def __init__(
        self,
        story: nn.Module,
        data: Any,
        *,
        num_auxiliary: int | None = None,
        num_layers: int = 3,
        flow_hidden: Sequence[int] = (64,),
        context: int = 16,
        num_nodes: int = 128,
        **options: Any,
    ) -> None:
        least = min(1 if num_auxiliary is None else num_auxiliary, num_layers, context, num_nodes)
        if min((least, *flow_hidden)) < 1 or num_layers % 2 == 0:
            raise ValueError(
                "expected num_auxiliary, flow_hidden, context and num_nodes of at least 1 and an odd num_layers, got "
                f"{num_auxiliary}, {tuple(flow_hidden)}, {context}, {num_nodes} and {num_layers}"
            )
        self._num_auxiliary, self._num_nodes = num_auxiliary, num_nodes
        self._options = (num_layers, tuple(flow_hidden), context)
        super().__init__(story, data, **options)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"loc": (dim,), "raw_scale": (dim,), "context": (self._options[2],)}

    def make_transport(self, dim: int) -> nn.Module:
        num_layers, hidden, context = self._options
        return AuxiliaryNetworks(self._num_auxiliary or dim, dim, context, num_layers, hidden)

    def family(self, parameters: TensorDict, transport: Any) -> Marginal:
        loc, scale = parameters["loc"], positive(parameters["raw_scale"])
        ours = loc.new_zeros(*loc.shape[:-1], self._num_auxiliary or loc.shape[-1])
        joint = Pushforward(
            torch.cat([ours, loc], -1),
            torch.cat([ours + 1, scale], -1),
            squashed(parameters["context"]),
            transport,
        )
        return Marginal(Extended(joint, loc.shape[-1]), self._num_nodes)


class AuxiliaryNetworks(nn.Module):
    """From noise to v and u, back, and from u to the reverse model's v; next to the identity at the start.

    Arguments:
        num_auxiliary: Numbers of v.
        dim: Numbers of u.
        context: Length of the context vector.
        num_layers: Networks in turn from v to u and from u to v.
        hidden: Hidden widths.
    """

    def __init__(
        self, num_auxiliary: int, dim: int, context: int, num_layers: int, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        parts = [slice(0, num_auxiliary), slice(num_auxiliary, num_auxiliary + dim)]
        self.layers = nn.ModuleList(
            Cascade(parts[::-1] if i % 2 else parts, context, hidden) for i in range(num_layers)
        )
        self.backwards = MLP(dim + context, 2 * num_auxiliary, hidden)
        last: Any = self.backwards[-1]
        with torch.no_grad():
            last.weight.mul_(NEXT_TO_IDENTITY)
            last.bias.zero_()

    def forward(self, eps: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """`(*, a + d)` and `(*, context)` to v and u side by side, and log |det| `(*,)`."""
        log_det = eps.new_zeros(eps.shape[:-1])
        for layer in self.layers:
            eps, part = layer(eps, context)
            log_det = log_det + part
        return eps, log_det

    def inverse(self, both: Tensor, context: Tensor) -> Tensor:
        """The noise that `forward` sends to v and u, `(*, a + d)`."""
        layers: list[Any] = [*self.layers]
        for layer in reversed(layers):
            both = layer.inverse(both, context)
        return both

    def reverse(self, u: Tensor, context: Tensor) -> Tensor:
        """Location and raw scale of the reverse model's v at u `(*, d)`, side by side, `(*, 2 a)`."""
        return self.backwards(torch.cat([u, context], -1))
