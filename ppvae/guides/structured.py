r"""Structured: every site conditioned on the row and on the sites before it."""

__all__ = ["Structured", "require_sites"]

from collections.abc import Sequence
from typing import Any

from torch import nn

from ppvae.guides.blocks import Cascade
from ppvae.guides.flow_guide import FlowGuide
from ppvae.story import Sites

ORDERS = ("story", "reverse")


class Structured(FlowGuide):
    r"""Gaussians site after site, each given the row and those before,
    :math:`q(u|x) = \prod_i N(u_i; \mu_i(x, u_{<i}), \sigma_i(x, u_{<i}))`.

    Assumes that the numbers within a site are independent given the row and the sites before it;
    between sites any dependence of location and scale goes. Other arguments as for `FlowGuide` and
    `Guide`.

    Arguments:
        order: `story` (causes first, as the program draws them: top-down) or `reverse` (from the
            data up).
        site_hidden: Hidden widths of each site's network.

    Raises:
        ValueError: If the story has fewer than two continuous latent sites, or an option is
            unknown.

    Source:
        M. Webb et al. (2018). Faithful inversion of generative models for effective amortized
        inference.
    """

    def __init__(
        self,
        story: nn.Module,
        data: Any,
        *,
        order: str = "story",
        site_hidden: Sequence[int] = (64,),
        **options: Any,
    ) -> None:
        if order not in ORDERS:
            raise ValueError(f"expected order among {', '.join(ORDERS)}; got '{order}'")
        self._order, self._hidden = order, tuple(site_hidden)
        super().__init__(story, data, **options)

    def check_sites(self, sites: Sites) -> None:
        super().check_sites(sites)
        require_sites("structured", sites)

    def make_transport(self, dim: int) -> nn.Module:
        blocks = list(self.flat.slices.values())
        if self._order == "reverse":
            blocks.reverse()
        return Cascade(blocks, self._context, self._hidden)


def require_sites(family: str, sites: Sites) -> None:
    """Refuse a story with fewer than two continuous latent sites."""
    if len(sites.local_continuous) < 2:
        raise ValueError(
            f"expected at least two continuous latent sites for {family}, got "
            f"{sorted(sites.local_continuous)}; with one it is mean_field, and a flow (iaf, nsf) "
            "bends its numbers"
        )
