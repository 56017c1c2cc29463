r"""The law of some numbers of a vector whose other numbers are known only through a reverse model."""

__all__ = ["Extended", "Marginal"]

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.quasirandom import SobolEngine

from ppvae.guides.base import positive
from ppvae.guides.flows import Pushforward, RowNetworks


class Extended(TorchDistribution):
    r"""Draws of v and u side by side, scored by :math:`\log q(v, u) - \log r(v|u)`.

    That is no density over (v, u), but what a draw weighs in place of log q(u): :math:`E\, p(u) \, r(v|u) / q(v, u) = \int p(u) du`.

    Arguments:
        law: q(v, u); its transport has a method `reverse(u, context)`.
        dim: Numbers of u, which stand last.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True
    has_density = False

    def __init__(self, joint: Pushforward, dim: int) -> None:
        self.joint, self.dim = joint, dim
        super().__init__(joint.batch_shape, joint.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Extended":
        return Extended(self.joint.expand(batch_shape), self.dim)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.joint.rsample(sample_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.joint.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        v, u = value[..., : -self.dim], value[..., -self.dim :]
        return self.joint.log_prob(value) - self.reverse(u).log_prob(v)

    def reverse(self, u: Tensor) -> Any:
        """r(v | u), a diagonal Gaussian of batch shape `(*, B)`, for u `(*, B, d)`."""
        joint = self.joint
        standard = (u - joint.loc[..., -self.dim :]) / joint.scale[..., -self.dim :]
        context = joint.context
        if not isinstance(joint.transport, RowNetworks):
            context = context.expand(*u.shape[:-1], context.shape[-1])
        loc, raw = joint.transport.reverse(standard, context).chunk(2, -1)
        return dist.Normal(loc, positive(raw)).to_event(1)


class Marginal(TorchDistribution):
    r"""The law of u alone, where v and u come from `Extended`.

    Its own draws are scored by the v that they came with: `log_prob` is their extended score, which a weight wants. Other values are scored by
    :math:`\log \frac1{2K} \sum_k q(v_k, u) / m(v_k)` over K fixed, evenly spread quantiles :math:`v_k` of the reverse model and K of the
    standard normal, from which v starts, with half of each density in m: an estimate of log q(u) that is the same each time. It is close
    where either of the two is near q(v|u), and too low in the mean where K is too few.

    Arguments:
        extended: The law of v and u.
        num_nodes: K, of each of the two.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, extended: Extended, num_nodes: int) -> None:
        self.extended, self.num_nodes = extended, num_nodes
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(extended.batch_shape, Size([extended.dim]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Marginal":
        return Marginal(self.extended.expand(batch_shape), self.num_nodes)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        both = self.extended.rsample(sample_shape)
        u = both[..., -self.extended.dim :]
        self._last = u, self.extended.log_prob(both)
        return u

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            return self._last[1]
        reverse = self.extended.reverse(value)
        plain = dist.Normal(torch.zeros_like(reverse.mean), 1.0).to_event(1)
        log_sum = torch.full_like(value[..., 0], -math.inf)
        for node in _nodes(self.num_nodes, reverse.event_shape[0]).to(value):
            for joint in (reverse, plain):
                v = joint.mean + joint.stddev * node
                log_q = self.extended.joint.log_prob(torch.cat([v, value], -1))
                log_nodes = torch.logaddexp(reverse.log_prob(v), plain.log_prob(v))
                log_sum = torch.logaddexp(log_sum, log_q - log_nodes)
        return log_sum - math.log(self.num_nodes)


def _nodes(num: int, dim: int) -> Tensor:
    """Evenly spread points of a standard normal, `(K, dim)`, the same each time."""
    uniform = SobolEngine(dim, scramble=True, seed=0).draw(num, dtype=torch.float64)
    return torch.distributions.Normal(0.0, 1.0).icdf(uniform.clamp(1e-9, 1 - 1e-9))
