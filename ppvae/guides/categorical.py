r"""Categorical: discrete sites drawn by the guide, each entry from probabilities of its own."""

__all__ = ["Categorical"]

from collections.abc import Mapping
from typing import Any

from pyro.distributions import Distribution

from ppvae.guides.amortized import Guide
from ppvae.guides.base import diagonal
from ppvae.guides.discrete import DiscreteSampler
from ppvae.story import Sites, TensorDict


class Categorical(Guide):
    r"""Independent categoricals, beside a mean-field for continuous sites, :math:`q(y|x) = \prod_j \pi_j(x)_{y_j}`.

    Assumes that the entries of the discrete sites are independent of each other, and of the continuous sites, given
    the row. Draws have no pathwise gradient: objectives use the score function. Arguments as for `Guide`.

    Raises:
        ValueError: If the story has no discrete latent site, or one with infinitely many values.

    Source:
        A. Mnih, K. Gregor (2014). Neural variational inference and learning in belief networks.
    """

    def make_discrete(self, sites: Sites) -> DiscreteSampler:
        return DiscreteSampler(sites)

    def check_sites(self, sites: Sites) -> None:
        require_discrete(self, sites)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"loc": (dim,), "raw_scale": (dim,)}

    def family(self, parameters: TensorDict, transport: Any) -> Distribution:
        return diagonal(parameters)


def require_discrete(guide: Guide, sites: Sites) -> None:
    """Refuse a story without discrete latent sites."""
    if not sites.local_discrete:
        raise ValueError(
            f"expected a discrete latent site for {type(guide).__name__}, got none; use a guide of continuous sites, such "
            "as mean_field"
        )
