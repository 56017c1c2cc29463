r"""Enumerated: every latent site is finite, and summed over exactly."""

__all__ = ["Enumerated"]

from collections.abc import Mapping
from typing import Any, NoReturn

from ppvae.guides.amortized import Guide
from ppvae.story import Sites, TensorDict


class Enumerated(Guide):
    r"""The exact posterior, summed over every joint value, :math:`\log p(x) = \log \sum_z p(x, z)`.

    Assumes that all local latent sites are discrete, with few joint values in a row. The ELBO is
    then log p(x) itself, both gaps are zero, and draws of the latent sites are exact. Nothing is
    learnt; arguments as for `Guide`.

    Source:
        A. P. Dempster, N. M. Laird, D. B. Rubin (1977). Maximum likelihood from incomplete data via
        the EM algorithm.
    """

    def check_sites(self, sites: Sites) -> None:
        if sites.local_continuous:
            raise ValueError(
                "expected only discrete latent sites for enumerated, got "
                f"{sorted(sites.local_continuous)}; any guide of continuous sites (mean_field, "
                "iaf, ...) sums over the finite ones beside them by itself"
            )

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {}

    def family(self, parameters: TensorDict, transport: Any) -> NoReturn:
        raise AssertionError("there is no continuous latent number")
