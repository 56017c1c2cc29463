r"""Low rank: one Gaussian whose correlations come from a few directions."""

__all__ = ["LowRank"]

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
from torch import nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive
from ppvae.story import TensorDict


class LowRank(Guide):
    r"""Gaussian with diagonal plus low-rank covariance, :math:`N(\mu(x), D(x) + F(x) F(x)^T)`.

    Assumes that the posterior is Gaussian on unconstrained space and that few directions carry its
    correlations; holds :math:`d (2 + r)` numbers a row, where `FullRank` holds
    :math:`d (d + 3) / 2`. With `rank = d` it is as rich as `FullRank`. Other arguments as for
    `Guide`.

    Arguments:
        rank: Columns `r` of the factor; never more than the latent numbers of a row are used.

    Raises:
        ValueError: If `rank` is below 1.

    Source:
        D. J. Rezende, S. Mohamed, D. Wierstra (2014). Stochastic backpropagation and approximate
        inference in deep generative models. V. M.-H. Ong, D. J. Nott, M. S. Smith (2018). Gaussian
        variational approximation with a factor covariance structure.
    """

    def __init__(self, story: nn.Module, data: Any, *, rank: int = 2, **options: Any) -> None:
        if rank < 1:
            raise ValueError(f"expected a rank of at least 1, got {rank}; rank 0 is mean_field")
        self._rank = rank
        super().__init__(story, data, **options)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"loc": (dim,), "raw_scale": (dim,), "factor": (dim, min(self._rank, dim))}

    def family(self, parameters: TensorDict, transport: Any) -> dist.Distribution:
        variance = positive(parameters["raw_scale"]).square()
        return dist.LowRankMultivariateNormal(parameters["loc"], parameters["factor"], variance)
