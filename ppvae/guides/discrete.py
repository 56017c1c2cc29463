r"""Drawing discrete sites in a guide: from logits, each entry of a row by itself."""

__all__ = ["DiscreteSampler", "FiniteCategorical", "SiteDistribution", "plain_site_distribution"]

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.guides.site_sampler import sampling_in_plates, spread
from ppvae.story import Site, Sites, enumerate_support

# From a site and logits `(*batch, *entries, K)` (coins: `(*batch, *entries)`) to the distribution
# of its entries.
SiteDistribution = Callable[[Site, Tensor], Any]


class FiniteCategorical(dist.Categorical):
    """A categorical over the whole numbers from `low` on.

    Arguments:
        logits: `(*, K)`.
        low: The smallest number.
        dtype: Type of the draws.
    """

    def __init__(self, logits: Tensor, low: int, dtype: torch.dtype) -> None:
        self.low, self.dtype = low, dtype
        super().__init__(logits=logits, validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.integer_interval(self.low, self.low + self._num_events - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FiniteCategorical":
        shape = Size([*batch_shape, self._num_events])
        return FiniteCategorical(self.logits.expand(shape), self.low, self.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return super().sample(Size(sample_shape)).to(self.dtype) + self.low

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value - self.low)


class DiscreteSampler:
    """Samples finite discrete sites, every entry independent of the others given the row.

    Arguments:
        sites: The local discrete latent sites.
        shapes: Site -> shape of what its distribution is made from, for one row, inner plates
            first; by default that of its logits.

    Attributes:
        num_logits: Logits of a row, in all.

    Raises:
        ValueError: If a site has infinitely many values, or its entries have different ones.
    """

    def __init__(self, sites: Sites, shapes: Mapping[str, Size] | None = None) -> None:
        self.sites = sites
        self.shapes = shapes or {name: _logits_shape(site) for name, site in sites.items()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.num_logits = sum(self.sizes)

    def __call__(self, logits: Tensor, site_distribution: SiteDistribution) -> None:
        """Sample every site.

        Arguments:
            logits: `(*batch, num_logits)`, batch as at the plate `data`.
            site_distribution: What to draw from.
        """
        sample = sampling_in_plates(self.sites)
        for site, part in zip(self.sites.values(), logits.split(self.sizes, -1), strict=True):
            fn = site_distribution(site, spread(part, self.shapes[site.name], site))
            sample(site, fn.to_event(len(site.event_shape) - fn.event_dim))


def plain_site_distribution(site: Site, logits: Tensor) -> Any:
    """The distribution of a site's entries."""
    values = _values(site)
    if values.dim() > 1:
        return dist.OneHotCategorical(logits=logits)
    if values.is_floating_point():
        return dist.Bernoulli(logits=logits)
    return FiniteCategorical(logits, int(values[0]), site.dtype)


def _values(site: Site) -> Tensor:
    """An entry's values: `(K, K)` one-hot, `(2,)` sides of a coin (floats), `(K,)` whole
    numbers."""
    entries = enumerate_support(site)
    if entries is None:
        raise ValueError(
            f"site '{site.name}': expected finitely many values, got the support {site.support}; "
            "truncate it, or write a Pyro guide that draws it"
        )
    if any(len(e) != len(entries[0]) or bool((e != entries[0]).any()) for e in entries):
        raise ValueError(
            f"site '{site.name}': expected the same values in every entry, got different bounds; "
            "split it into several sites"
        )
    return entries[0]


def _logits_shape(site: Site) -> Size:
    values = _values(site)
    choices = [len(values)] if values.dim() == 1 and not values.is_floating_point() else []
    return Size([*site.row_shape, *choices])
