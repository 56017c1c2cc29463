r"""Discrete distributions whose log density also takes relaxed values."""

__all__ = ["LinearBernoulli", "LinearOneHot", "relax"]

from typing import Any

import pyro.distributions as dist
from torch import Tensor


class LinearOneHot(dist.OneHotCategorical):
    r"""A one-hot categorical whose log density is extended linearly off the corners, :math:`\sum_k
    y_k \log p_k`.

    Equal to the plain one on one-hot vectors; a vector that does not sum to one adds nothing of its
    own, so that a uniform distribution has no slope in any direction.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """log p at `(*, K)`, in nats."""
        mean = self.logits.mean(-1, keepdim=True)
        return (value * (self.logits - mean)).sum(-1) + mean.squeeze(-1)


class LinearBernoulli(dist.Bernoulli):
    r"""A Bernoulli with the log density :math:`y \log p + (1 - y) \log(1 - p)` on [0, 1]."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LinearBernoulli":
        return type(self)(self.logits.expand(batch_shape))


def relax(fn: Any) -> Any:
    """The same distribution, with a log density that takes relaxed values where there are such."""
    if isinstance(fn, dist.Independent):
        base = relax(fn.base_dist)
        return fn if base is fn.base_dist else base.to_event(fn.reinterpreted_batch_ndims)
    if type(fn) is dist.OneHotCategorical:
        return LinearOneHot(logits=fn.logits, validate_args=False)
    if type(fn) is dist.Bernoulli:
        return LinearBernoulli(fn.logits)
    return fn
