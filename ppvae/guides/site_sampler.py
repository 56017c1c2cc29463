r"""Putting draws of one real vector at a story's latent sites: supports, plates, Jacobians."""

__all__ = ["PlateSampler", "PointMass", "SiteSampler", "spread"]

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

    Pyro's KL of a `Delta` leaves that term out, so `TraceMeanField_ELBO` would lose the Jacobian of a constrained
    site.
    """


@register_kl(PointMass, Distribution)
def _kl_point_mass(p: Any, q: Any) -> Tensor:
    return p.log_density - q.log_prob(p.v)


class PlateSampler:
    """Samples sites inside their inner plates."""

    def __init__(self, sites: Sites) -> None:
        self.plates = {
            (name, size, dim)
            for site in sites.values()
            for name, (dim, size) in zip(site.inner_plates, site.layout.inner, strict=True)
        }

    def entered(self) -> Callable[[Site, Any], Tensor]:
        """A function that samples a site from a distribution, with the plates of one run of the guide."""
        plates = {name: pyro.plate(name, size, dim=dim) for name, size, dim in self.plates}

        def sample(site: Site, fn: Any) -> Tensor:
            with ExitStack() as stack:
                for name in site.inner_plates:
                    stack.enter_context(plates[name])
                return pyro.sample(site.name, fn)

        return sample


class SiteSampler:
    """Samples the sites of a story from a distribution over :math:`u`, inside a guide.

    A distribution that factorises into Normals is placed site by site, so that analytic KL terms apply. Any
    other is drawn once, at an auxiliary site, and its parts stand at the sites as point masses that carry the
    Jacobian.

    Arguments:
        sites: The latent sites to place: all local ones, or all global ones.
    """

    def __init__(self, sites: Sites) -> None:
        self.flat = Flat(sites)
        self.sampler = PlateSampler(sites)
        self.only = _only_plain_vector(self.flat)

    def __call__(self, q: Any) -> None:
        """Sample every site.

        Arguments:
            q: A distribution, batch shape as at the plate `data` (empty for global sites), event shape `(d,)`.
        """
        drawn = getattr(q, "extended", q)  # with numbers of the guide's own in front
        if self.only is not None and drawn is q:
            pyro.sample(self.only, q)
            return
        sample = self.sampler.entered()
        if isinstance(q, dist.Independent) and isinstance(q.base_dist, dist.Normal):
            for site in self.flat.sites.values():
                sample(site, self._factor(site, q.base_dist))
            return
        u = pyro.sample("_" + "_".join(self.flat.sites), drawn, infer={"is_auxiliary": True})
        u = u[..., -self.flat.dim :]
        for name, site in self.flat.sites.items():
            sample(site, self._point_mass(site, u[..., self.flat.slices[name]]))

    def _factor(self, site: Site, q: Any) -> Distribution:
        """The site's own factor of a fully factorised Normal."""
        shape, part = self.flat.shapes[site.name], self.flat.slices[site.name]
        loc, scale = (spread(t[..., part], shape, site) for t in (q.loc, q.scale))
        transform = self.flat.transforms[site.name]
        if transform is None:
            return dist.Normal(loc, scale).to_event(site.layout.event_dim)
        # The cache returns the drawn u itself when the value is scored: no loss in the inverse.
        fn = dist.TransformedDistribution(dist.Normal(loc, scale), [transform.with_cache()])
        return fn.to_event(site.layout.event_dim - fn.event_dim)

    def _point_mass(self, site: Site, part: Tensor) -> Distribution:
        """A site that is a function of the auxiliary draw."""
        value = spread(part, self.flat.shapes[site.name], site)
        transform = self.flat.transforms[site.name]
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
    """A site's part of `u`, `(*batch, d_site)`, with its inner plates moved to their batch dimensions.

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
