r"""Mean-field: every latent number has its own Normal, independent of the others."""

__all__ = ["MeanField"]

from collections.abc import Mapping
from typing import Any

from pyro.distributions import Distribution

from ppvae.guides.amortized import Guide
from ppvae.guides.base import diagonal
from ppvae.story import TensorDict


class MeanField(Guide):
    r"""Diagonal Gaussian on unconstrained space,
    :math:`q(u|x) = \prod_i N(u_i; \mu_i(x), \sigma_i(x))`.

    Assumes that the latent numbers are independent given the row. Arguments as for `Guide`.

    Source:
        D. P. Kingma, M. Welling (2014). Auto-encoding variational Bayes.
    """

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"loc": (dim,), "raw_scale": (dim,)}

    def family(self, parameters: TensorDict, transport: Any) -> Distribution:
        return diagonal(parameters)
