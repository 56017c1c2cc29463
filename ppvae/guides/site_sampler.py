r"""Putting draws of one real vector at a story's latent sites: supports, plates, Jacobians."""

__all__ = ["PointMass", "SiteSampler", "normal_at", "sampling_in_plates", "spread"]

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.distributions import Distribution
from torch import Size, Tensor
from torch.distributions import register_kl

from ppvae.story import Flat, Site, Sites


class PointMass(dist.Delta):
    """A Delta whose KL divergence counts its own log density.

    Pyro's KL of a `Delta` leaves that term out, so `TraceMeanField_ELBO` would lose the Jacobian of
    a constrained site.
    """


@register_kl(PointMass, Distribution)
def _kl_point_mass(p: Any, q: Any) -> Tensor:
    return p.log_density - q.log_prob(p.v)


def sampling_in_plates(sites: Sites) -> Callable[[Site, Any], Tensor]:
    """A function that samples a site inside its inner plates, for one run of a guide."""
    sizes = {
        name: plate
        for site in sites.values()
        for name, plate in zip(site.inner_plates, site.layout.inner, strict=True)
    }
    plates = {name: pyro.plate(name, size, dim=dim) for name, (dim, size) in sizes.items()}

    def sample(site: Site, fn: Any) -> Tensor:
        with ExitStack() as stack:
            for name in site.inner_plates:
                stack.enter_context(plates[name])
            return pyro.sample(site.name, fn)

    return sample


class SiteSampler:
    """Samples the sites of a story from a distribution over :math:`u`, inside a guide.

    Of a distribution that factorises into Normals each site samples its own, so that analytic KL
    terms apply. Any other is drawn once, at an auxiliary site, and its parts become the sites'
    values as point masses that carry the Jacobian.

    Arguments:
        sites: The latent sites to sample: all local ones, or all global ones.
    """

    def __init__(self, sites: Sites) -> None:
        self.flat = Flat(sites)
        self.only = _only_plain_vector(self.flat)

    def __call__(self, q: Any) -> None:
        """Sample every site.

        Arguments:
            q: A distribution, batch shape as at the plate `data` (empty for global sites), event
                shape `(d,)`.
        """
        if self.only is not None:
            pyro.sample(self.only, q)
            return
        sample = sampling_in_plates(self.flat.sites)
        if isinstance(q, dist.Independent) and isinstance(q.base_dist, dist.Normal):
            for site in self.flat.sites.values():
                loc, scale = (self._part(site, t) for t in (q.base_dist.loc, q.base_dist.scale))
                sample(site, normal_at(site, loc, scale, self.flat.transforms[site.name]))
            return
        u = pyro.sample("_" + "_".join(self.flat.sites), q, infer={"is_auxiliary": True})
        for name, site in self.flat.sites.items():
            value = self._part(site, u)
            sample(site, _point_mass(site, value, self.flat.transforms[name]))

    def _part(self, site: Site, u: Tensor) -> Tensor:
        """The site's numbers of `u`, in its plates."""
        return spread(u[..., self.flat.slices[site.name]], self.flat.shapes[site.name], site)


def normal_at(site: Site, loc: Tensor, scale: Tensor, transform: Any) -> Any:
    """A site's distribution: independent Normals, pushed into its support by `transform`.

    Arguments:
        site: The site.
        loc: Locations on unconstrained space, in the site's plates, `(*batch, *event)`.
        scale: Scales, of that shape.
        transform: From the unconstrained space.
    """
    fn: Any = dist.Normal(loc, scale)
    if transform is not None:
        # The cache returns the drawn u itself when the value is scored: no loss in the inverse.
        fn = dist.TransformedDistribution(fn, [transform.with_cache()])
    return fn.to_event(site.layout.event_dim - fn.event_dim)


def _point_mass(site: Site, value: Tensor, transform: Any) -> PointMass:
    """A site that is a function of the auxiliary draw."""
    event_dim = site.layout.event_dim
    if transform is None:
        return PointMass(value, event_dim=event_dim)
    constrained = transform(value)
    log_det = transform.log_abs_det_jacobian(value, constrained)
    surplus = log_det.dim() - (constrained.dim() - event_dim)
    if surplus:
        log_det = log_det.flatten(-surplus).sum(-1)
    return PointMass(constrained, log_density=-log_det, event_dim=event_dim)


def spread(part: Tensor, shape: Size, site: Site) -> Tensor:
    """A site's part of `u`, `(*batch, d_site)`, its inner plates at their batch dimensions.

    `shape` is that of the unconstrained site, inner plates first. Returns `(*batch, *event)`.
    """
    inner = site.layout.inner
    batch = part.shape[:-1]
    if len(batch) < site.layout.depth and inner:
        batch = Size([1] * (site.layout.depth - len(batch)) + list(batch))
    value = part.reshape([*batch, *shape])
    for position, (dim, _) in enumerate(inner):
        value = value.transpose(len(batch) + dim, len(batch) + position)
    if inner:  # the swapped axes have size 1 now
        value = value.reshape([*value.shape[: len(batch)], *value.shape[len(batch) + len(inner) :]])
    return value


def _only_plain_vector(flat: Flat) -> str | None:
    """The site that takes `u` as it is, if the story has just one and it is a real vector."""
    if len(flat.sites) != 1:
        return None
    name, site = next(iter(flat.sites.items()))
    plain = flat.transforms[name] is None and not site.layout.inner and len(site.event_shape) == 1
    return name if plain else None
