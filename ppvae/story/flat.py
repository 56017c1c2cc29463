r"""All local latent sites of a row as one vector of real numbers, and back."""

__all__ = ["Flat"]

from collections.abc import Mapping

import torch
from torch import Size, Tensor
from torch.distributions import Transform, biject_to, constraints

from ppvae.story.running import TensorDict
from ppvae.story.sites import Site, Sites


class Flat:
    r"""The map between a row's local latent sites and :math:`u \in R^d`.

    Each continuous support is mapped to the reals by `biject_to`; the sites stand side by side in
    the order of the program.

    Arguments:
        sites: The local latent sites.

    Attributes:
        dim: Length :math:`d` of `u`.
        slices: Site -> its place in `u`.

    Raises:
        ValueError: If a site is discrete.
    """

    def __init__(self, sites: Sites) -> None:
        for name, site in sites.items():
            if site.is_discrete:
                raise ValueError(
                    f"site '{name}': expected a continuous site, got a discrete one (support "
                    f"{site.support})"
                )
        self.sites = sites
        self.transforms = {n: _transform(s) for n, s in sites.items()}
        self.shapes = {n: _unconstrained_shape(s) for n, s in sites.items()}
        self.slices: dict[str, slice] = {}
        self.dim = 0
        for name, shape in self.shapes.items():
            self.slices[name] = slice(self.dim, self.dim + shape.numel())
            self.dim += shape.numel()

    def unflatten(self, u: Tensor) -> tuple[TensorDict, Tensor]:
        """Vectors to sites.

        Arguments:
            u: `(*, B, d)`.

        Returns:
            Site -> `(*, B, *row)`, and log |det dz/du| with shape `(*, B)`, in nats.
        """
        latents, log_det = {}, u.new_zeros(())
        for name in self.sites:
            latents[name], part = self.site(name, u[..., self.slices[name]])
            if part is not None:
                inner = tuple(range(u.dim() - 1, part.dim()))
                log_det = log_det + (part.sum(inner) if inner else part)
        return latents, log_det.expand(u.shape[:-1])

    def site(self, name: str, part: Tensor) -> tuple[Tensor, Tensor | None]:
        """One site from its own part of `u`.

        Arguments:
            name: The site.
            part: `(*, B, d_site)`.

        Returns:
            The value `(*, B, *row)`, and log |det| per inner plate `(*, B, *inner)`; None where the
            map is the identity.
        """
        part = part.reshape(*part.shape[:-1], *self.shapes[name])
        transform = self.transforms[name]
        if transform is None:
            return part, None
        value = transform(part)
        log_det = transform.log_abs_det_jacobian(part, value)
        extra = self.sites[name].layout.event_dim - transform.codomain.event_dim
        return value, log_det.flatten(-extra).sum(-1) if extra else log_det

    def flatten(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Sites to vectors: the inverse of `unpack`.

        Arguments:
            latents: Site -> `(*, B, *row)`.

        Returns:
            `(*, B, d)`.
        """
        parts = []
        for name, site in self.sites.items():
            value, transform = latents[name], self.transforms[name]
            part = value if transform is None else transform.inv(value)
            lead = value.dim() - len(site.row_shape)
            parts.append(part.reshape(*value.shape[:lead], -1))
        return torch.cat(parts, -1)


def _transform(site: Site) -> Transform | None:
    support = site.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.real or type(support) is type(constraints.real):
        return None
    if support is constraints.real_vector:
        return None
    return biject_to(site.support)


def _unconstrained_shape(site: Site) -> Size:
    transform = _transform(site)
    event = site.event_shape if transform is None else transform.inverse_shape(site.event_shape)
    return Size([*site.layout.inner_shape, *event])
