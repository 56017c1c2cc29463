r"""Auxiliary: plain Gaussians, given auxiliary variables that the guide draws first."""

__all__ = ["Auxiliary", "AuxiliaryMixture", "AuxiliaryNetworks"]

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn
from torch.quasirandom import SobolEngine

from ppvae.guides.base import positive, refuse_below_one
from ppvae.guides.blocks import Cascade
from ppvae.guides.flow_guide import FlowGuide, squashed
from ppvae.guides.pushforward import Conditioned, Pushforward, ScoredDraws, start_near_zero
from ppvae.nets import MLP
from ppvae.story import TensorDict


class Auxiliary(FlowGuide):
    r"""A mixture over auxiliary variables v,
    :math:`q(u|x) = \int N(u; \mu(x, v), \sigma(x, v)) \, N(v; 0, 1) \, dv`.

    Assumes that the latent numbers are independent given the row and v; over v they may depend on
    each other, bend, and fall into pieces. The density of u has no closed form: with a reverse
    model :math:`r(v|u, x)`, a Gaussian that learns to guess v from u, draws are weighed by
    :math:`\log w = \log p(x, u) + \log r(v|u, x) - \log q(v, u|x)`. Their weights are right, E w =
    p(x), and so are all bounds; the ELBO is low by :math:`E\,KL(q(v|u, x) \,\|\, r)` beside the
    usual. Values that it did not draw are scored as `AuxiliaryMixture` says. Other arguments as for
    `FlowGuide` and `Guide`.

    Arguments:
        num_auxiliary: Numbers of v; None takes as many as the row has latent numbers.
        num_layers: Times that one of the two is shifted and scaled by the other: u by v, then v by
            u, and so on. Odd: 1 is the model above, more is a flow over both.
        flow_hidden: Hidden widths of the networks between v and u, and of the reverse model's.
        num_nodes: Values of v from the reverse model, and as many from where v starts, over which
            the density at a given u is averaged.

    Raises:
        ValueError: If an option is out of range.

    Source:
        R. Ranganath, D. Tran, D. M. Blei (2016). Hierarchical variational models. L. Maaløe, C. K.
        Sønderby, S. K. Sønderby, O. Winther (2016). Auxiliary deep generative models. C. Cremer, X.
        Li, D. Duvenaud (2018). Inference suboptimality in variational autoencoders (the flow over
        both).
    """

    def __init__(
        self,
        story: nn.Module,
        data: Any,
        *,
        num_auxiliary: int | None = None,
        num_layers: int = 3,
        flow_hidden: Sequence[int] = (64,),
        num_nodes: int = 128,
        **options: Any,
    ) -> None:
        refuse_below_one(num_layers=num_layers, flow_hidden=flow_hidden, num_nodes=num_nodes)
        if num_auxiliary is not None:
            refuse_below_one(num_auxiliary=num_auxiliary)
        if num_layers % 2 == 0:
            raise ValueError(f"expected an odd num_layers for auxiliary, got {num_layers}")
        self._num_auxiliary, self._num_nodes = num_auxiliary, num_nodes
        self._num_layers, self._hidden = num_layers, tuple(flow_hidden)
        super().__init__(story, data, **options)

    def make_transport(self, dim: int) -> nn.Module:
        num_auxiliary = self._num_auxiliary or dim
        return AuxiliaryNetworks(num_auxiliary, dim, self._context, self._num_layers, self._hidden)

    def family(self, parameters: TensorDict, transport: Any) -> "AuxiliaryMixture":
        loc, scale = parameters["loc"], positive(parameters["raw_scale"])
        v = loc.new_zeros(*loc.shape[:-1], self._num_auxiliary or loc.shape[-1])
        both = torch.cat([v, loc], -1), torch.cat([v + 1, scale], -1)
        joint = Pushforward(*both, Conditioned(transport, squashed(parameters["context"])))
        return AuxiliaryMixture(joint, loc.shape[-1], self._num_nodes)


class AuxiliaryNetworks(nn.Module):
    """From noise to v and u, back, and from u to the reverse model's v.

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
        start_near_zero(self.backwards[-1])

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
        """Location and raw scale of the reverse model at u `(*, d)`, side by side, `(*, 2 a)`."""
        return self.backwards(torch.cat([u, context], -1))


class AuxiliaryMixture(ScoredDraws):
    r"""The distribution of u alone, where v and u come from :math:`q(v, u)`.

    Its own draws are scored by :math:`\log q(v, u) - \log r(v|u)` at the v that they came with.
    That is no log density of u, but unbiased in a weight:
    :math:`E\, p(u) \, r(v|u) / q(v, u) = \int p(u) du`. Other values are scored by
    :math:`\log \frac1{2K} \sum_k q(v_k, u) / m(v_k)` over K fixed, evenly spread quantiles
    :math:`v_k` of the reverse model and K of the standard normal, from which v starts, with half of
    each density in m: an estimate of log q(u) that is the same each time. It is close where either
    of the two is near q(v|u), and too low in the mean where K is too few.

    Arguments:
        joint: q(v, u); its networks have a method `reverse(u, context)`.
        dim: Numbers of u, which stand last.
        num_nodes: K, of each of the two.
    """

    has_density = False  # its draws' scores are no log densities

    def __init__(self, joint: Pushforward, dim: int, num_nodes: int) -> None:
        self.joint, self.dim, self.num_nodes = joint, dim, num_nodes
        super().__init__(joint.batch_shape, dim)

    def draw(self, shape: Size) -> tuple[Tensor, Tensor]:
        both, log_q = self.joint.draw(shape)
        v, u = both[..., : -self.dim], both[..., -self.dim :]
        return u, log_q - self.reverse_model(u).log_prob(v)

    def score(self, value: Tensor) -> Tensor:
        reverse = self.reverse_model(value)
        plain = dist.Normal(torch.zeros_like(reverse.mean), 1.0).to_event(1)
        log_sum = torch.full_like(value[..., 0], -math.inf)
        for node in _nodes(self.num_nodes, reverse.event_shape[0]).to(value):
            for proposal in (reverse, plain):
                v = proposal.mean + proposal.stddev * node
                log_q = self.joint.log_prob(torch.cat([v, value], -1))
                log_m = torch.logaddexp(reverse.log_prob(v), plain.log_prob(v))
                log_sum = torch.logaddexp(log_sum, log_q - log_m)
        return log_sum - math.log(self.num_nodes)

    def reverse_model(self, u: Tensor) -> Any:
        """r(v | u), a diagonal Gaussian of batch shape `(*, B)`, for u `(*, B, d)`."""
        joint = self.joint
        standard = (u - joint.loc[..., -self.dim :]) / joint.scale[..., -self.dim :]
        context = joint.transform.beside(standard)
        loc, raw = joint.transform.networks.reverse(standard, context).chunk(2, -1)
        return dist.Normal(loc, positive(raw)).to_event(1)


def _nodes(num: int, dim: int) -> Tensor:
    """Evenly spread points of a standard normal, `(K, dim)`, the same each time."""
    uniform = SobolEngine(dim, scramble=True, seed=0).draw(num, dtype=torch.float64)
    return torch.distributions.Normal(0.0, 1.0).icdf(uniform.clamp(1e-9, 1 - 1e-9))
