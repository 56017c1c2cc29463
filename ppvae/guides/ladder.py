r"""Ladder: the story run top-down, each prior corrected by what the encoder saw."""

__all__ = ["Ladder", "TopDown"]

from collections.abc import Mapping
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Size, Tensor, nn
from torch.distributions import constraints

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive
from ppvae.guides.site_sampler import spread
from ppvae.story import (
    Flat,
    Layout,
    SampleRows,
    Sites,
    TensorDict,
    local_params,
    particle_plate,
    run,
)
from ppvae.story.sites import is_bookkeeping
from ppvae.story.validation import parent_sites


class Ladder(Guide):
    r"""Top-down inference, the story's priors corrected by the encoder,
    :math:`q(z_i | z_{<i}, x) \propto p(z_i | z_{<i}) \, N(z_i; \mu_i(x), \sigma_i(x))`.

    The guide runs the story itself and multiplies the prior of each site by a Gaussian from the encoder, so that story
    and guide share the networks of the priors. A site whose prior is not Normal is drawn from the encoder's Gaussian
    alone. Assumes that the numbers within a site are independent given the row and the sites above. Other arguments
    as for `Guide`; the story that it is built with is the one that it runs.

    Raises:
        ValueError: If the story has covariates, a global or discrete latent site, fewer than two latent sites, or a
            latent site that depends on an observed one.

    Source:
        C. K. Sønderby, T. Raiko, L. Maaløe, S. K. Sønderby, O. Winther (2016). Ladder variational autoencoders.
    """

    def __init__(self, story: nn.Module, data: Any, **options: Any) -> None:
        self.stories = (story,)  # in a tuple: the story is no part of the guide
        super().__init__(story, data, **options)

    def check_sites(self, sites: Sites) -> None:
        whole = [*sites.global_latent, *sites.local_discrete]
        if whole or len(sites.local_continuous) < 2:
            raise ValueError(
                "expected at least two latent sites for ladder, all continuous and inside the plate 'data', got "
                f"{sorted(sites.latent)}; use structured or mean_field"
            )
        if hasattr(self.stories[0], "run_conditioned"):
            raise ValueError(
                "expected a story that generates its rows for ladder, got an adopted model"
            )
        _refuse_inputs(self.stories[0], sites)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"loc": (dim,), "raw_scale": (dim,)}

    def family(self, parameters: TensorDict, transport: Any) -> "TopDown":
        scale = positive(parameters["raw_scale"])
        return TopDown(self.stories[0], self.flat, self.row_dim, parameters["loc"], scale)


def _refuse_inputs(story: nn.Module, sites: Sites) -> None:
    """The guide must be able to run the story before it sees the data."""
    try:
        with torch.no_grad():
            parents = parent_sites(story, {}, 2)
    except TypeError as error:
        raise ValueError(
            f"expected a story without covariates for ladder, got one whose forward says: {error}; use structured"
        ) from error
    given = sorted(parents & set(sites.observed))
    if given:
        raise ValueError(
            f"expected latent sites that depend on no observed one for ladder, got the parents {given}; use structured"
        )


class TopDown(TorchDistribution):
    """A story's latent sites with every Normal prior multiplied by a Gaussian of the row's own.

    Arguments:
        story: The story.
        flat: The map between its sites and `u`.
        row_dim: Batch dimension (negative) of the plate `data`.
        loc: Locations of the row's Gaussians on unconstrained space, `(B, *ones, d)`.
        scale: Their scales.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, story: nn.Module, flat: Flat, row_dim: int, loc: Tensor, scale: Tensor
    ) -> None:
        self.story, self.flat = story, flat
        num_rows, dim = len(loc), loc.shape[-1]
        ones = (1,) * (-1 - row_dim)
        self.loc, self.scale = (t.reshape(num_rows, *ones, dim) for t in (loc, scale))
        self.particle_dim = -1 - max(max(s.layout.depth for s in flat.sites.values()), -row_dim)
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def sample_sites(self) -> None:
        """Sample every site, as a part of a guide."""
        self._run_story(None)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        drawn = self._particles(Size(sample_shape).numel(), None)
        u = self.flat.flatten(drawn.values)
        log_q = drawn.local + self.flat.unflatten(u)[1]
        u = u.reshape(Size([*sample_shape, *self.batch_shape, *self.event_shape]))
        self._last = u, log_q.reshape(u.shape[:-1])
        return u

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            return self._last[1]
        u = value.reshape(-1, len(self.loc), value.shape[-1])
        latents, log_det = self.flat.unflatten(u)
        return (self._particles(len(u), latents).local + log_det).reshape(value.shape[:-1])

    def _particles(self, num_particles: int, latents: TensorDict | None) -> SampleRows:
        """Run the story by itself, apart from any program around."""
        drawn = SampleRows(self.particle_dim, num_particles, len(self.loc))
        plate = particle_plate(num_particles, self.particle_dim)
        with poutine.block(), local_params(self.story), drawn, plate:
            self._run_story(latents)
        return drawn

    def _run_story(self, latents: TensorDict | None) -> None:
        try:
            with _Corrected(self, latents):
                run(self.story, len(self.loc))
        except _AllDrawnError:
            pass


class _AllDrawnError(Exception):
    """Leaves the story after its last latent site: what it generates from them is not wanted."""


class _Corrected(Messenger):
    """Corrects the priors of the latent sites; fixes their values where `latents` gives them."""

    def __init__(self, q: TopDown, latents: TensorDict | None) -> None:
        super().__init__()
        self.q, self.latents = q, latents
        self.left = set(q.flat.sites)

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if is_bookkeeping(msg):
            return
        if name not in self.q.flat.sites:
            if not self.left:
                raise _AllDrawnError
            msg["stop"] = True  # no part of the guide
            return
        self.left.remove(name)
        msg["fn"] = self._law(name, msg["fn"])
        if self.latents is not None:
            layout = Layout.of(msg["cond_indep_stack"], msg["fn"].event_dim)
            value = layout.to_program(self.latents[name], particle_dim=self.q.particle_dim)
            msg["value"], msg["is_observed"] = value, True

    def _law(self, name: str, prior: Any) -> Any:
        """The prior times the row's Gaussian; the Gaussian alone where the prior is not Normal."""
        flat = self.q.flat
        site, part = flat.sites[name], flat.slices[name]
        loc, scale = (
            spread(t[..., part], flat.shapes[name], site) for t in (self.q.loc, self.q.scale)
        )
        base = prior
        while isinstance(base, dist.Independent):
            base = base.base_dist
        transform = flat.transforms[name]
        if isinstance(base, dist.Normal):
            precision = scale**-2 + base.scale**-2
            loc = (loc * scale**-2 + base.loc * base.scale**-2) / precision
            fn: Any = dist.Normal(loc, precision**-0.5)
        else:
            event = flat.shapes[name][len(site.layout.inner) :]
            fn = dist.Normal(loc, scale).expand(Size([*prior.batch_shape, *event]))
            if transform is not None:
                fn = dist.TransformedDistribution(fn, [transform.with_cache()])
        return fn.to_event(site.layout.event_dim - fn.event_dim)
