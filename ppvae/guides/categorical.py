r"""Categorical: discrete sites drawn by the guide, each entry from probabilities of its own."""

__all__ = ["Categorical", "DiscreteGuide"]

from collections.abc import Mapping
from typing import Any

from pyro.distributions import Distribution

from ppvae.guides.amortized import Guide
from ppvae.guides.base import diagonal
from ppvae.guides.discrete import DiscreteSampler
from ppvae.story import Sites, TensorDict


class DiscreteGuide(Guide):
    """A guide that draws discrete sites, with a mean-field for the continuous ones.

    Raises:
        ValueError: If the story has no discrete latent site, or one with infinitely many values.
    """

    def make_discrete(self, sites: Sites) -> DiscreteSampler:
        return DiscreteSampler(sites)

    def check_sites(self, sites: Sites) -> None:
        if not sites.local_discrete:
            raise ValueError(
                f"expected a discrete latent site for {type(self).__name__}, got none; use a guide "
                "of continuous sites, such as mean_field"
            )

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"loc": (dim,), "raw_scale": (dim,)}

    def family(self, parameters: TensorDict, transport: Any) -> Distribution:
        return diagonal(parameters)


class Categorical(DiscreteGuide):
    r"""Independent categoricals, beside a mean-field for continuous sites,
    :math:`q(y|x) = \prod_j \pi_j(x)_{y_j}`.

    Assumes that the entries of the discrete sites are independent of each other, and of the
    continuous sites, given the row. Draws have no pathwise gradient: objectives use the score
    function. Arguments as for `Guide`.

    Raises:
        ValueError: As for `DiscreteGuide`.

    Source:
        A. Mnih, K. Gregor (2014). Neural variational inference and learning in belief networks.
    """
