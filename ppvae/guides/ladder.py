r"""Ladder: the story run top-down, each prior corrected by what the encoder saw."""

__all__ = ["Ladder", "TopDown"]

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Size, Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive
from ppvae.guides.pushforward import ScoredDraws
from ppvae.guides.site_sampler import normal_at, spread
from ppvae.story import (
    Flat,
    Layout,
    SampleRows,
    Sites,
    TensorDict,
    local_params,
    particle_plate,
    program_of,
    run,
)
from ppvae.story.sites import is_bookkeeping
from ppvae.story.validation import parent_sites


class Ladder(Guide):
    r"""Top-down inference, the story's priors corrected by the encoder,
    :math:`q(z_i | z_{<i}, x) \propto p(z_i | z_{<i}) \, N(z_i; \mu_i(x), \sigma_i(x))`.

    The guide runs the story itself and multiplies the prior of each site by a Gaussian from the
    encoder, so that story and guide share the networks of the priors. A site whose prior is not
    Normal is drawn from the encoder's Gaussian alone. Assumes that the numbers within a site are
    independent given the row and the sites above. Other arguments as for `Guide`; the story that it
    is built with is the one that it runs.

    Raises:
        ValueError: If the story has covariates, a global or discrete latent site, fewer than two
            latent sites, or a latent site that depends on an observed one.

    Source:
        C. K. Sønderby, T. Raiko, L. Maaløe, S. K. Sønderby, O. Winther (2016). Ladder variational
        autoencoders.
    """

    def __init__(self, story: nn.Module, data: Any, **options: Any) -> None:
        self.stories = (story,)  # in a tuple: the story is no part of the guide
        super().__init__(story, data, **options)

    def check_sites(self, sites: Sites) -> None:
        whole = [*sites.global_latent, *sites.local_discrete]
        if whole or len(sites.local_continuous) < 2:
            raise ValueError(
                "expected at least two latent sites for ladder, all continuous and inside the "
                f"plate 'data', got {sorted(sites.latent)}; use structured or mean_field"
            )
        if not program_of(self.stories[0]).generates_rows:
            raise ValueError(
                "expected a story that generates its rows for ladder, got an adopted model"
            )
        self._refuse_inputs(sites)

    def _refuse_inputs(self, sites: Sites) -> None:
        """The guide must be able to run the story before it sees the data."""
        try:
            with torch.no_grad():
                parents = parent_sites(self.stories[0], {}, 2)
        except TypeError as error:
            raise ValueError(
                "expected a story without covariates for ladder, got one whose forward raises: "
                f"{error}; use structured"
            ) from error
        observed_parents = sorted(parents & set(sites.observed))
        if observed_parents:
            raise ValueError(
                "expected latent sites that depend on no observed one for ladder, got the parents "
                f"{observed_parents}; use structured"
            )

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"loc": (dim,), "raw_scale": (dim,)}

    def family(self, parameters: TensorDict, transport: Any) -> "TopDown":
        scale = positive(parameters["raw_scale"])
        return TopDown(self.stories[0], self.sites, self.flat, parameters["loc"], scale)


class TopDown(ScoredDraws):
    """A story's latent sites with every Normal prior multiplied by a Gaussian for each row.

    Arguments:
        story: The story.
        sites: Its sites.
        flat: The map between its latent sites and `u`.
        loc: Locations of the row's Gaussians on unconstrained space, `(B, *ones, d)`.
        scale: Their scales.
    """

    def __init__(
        self, story: nn.Module, sites: Sites, flat: Flat, loc: Tensor, scale: Tensor
    ) -> None:
        self.story, self.flat, self.particle_dim = story, flat, sites.particle_dim
        ones = (1,) * (-1 - sites.row_dim)
        self.loc, self.scale = (t.reshape(len(t), *ones, flat.dim) for t in (loc, scale))
        super().__init__(loc.shape[:-1], flat.dim)

    def sample_sites(self) -> None:
        """Sample every site, as a part of a guide."""
        self._run_story(None)

    def draw(self, shape: Size) -> tuple[Tensor, Tensor]:
        drawn = self._particles(shape.numel() // len(self.loc), None)
        u = self.flat.flatten(drawn.values)
        log_q = drawn.local + self.flat.unflatten(u)[1]
        return u.reshape(*shape, self.flat.dim), log_q.reshape(shape)

    def score(self, value: Tensor) -> Tensor:
        u = value.reshape(-1, len(self.loc), self.flat.dim)
        latents, log_det = self.flat.unflatten(u)
        return (self._particles(len(u), latents).local + log_det).reshape(value.shape[:-1])

    def _particles(self, num_particles: int, latents: TensorDict | None) -> SampleRows:
        """Run the story by itself: no handler around sees it."""
        drawn = SampleRows(self.particle_dim, num_particles, len(self.loc))
        plate = particle_plate(num_particles, self.particle_dim)
        with poutine.block(), local_params(self.story), drawn, plate:
            self._run_story(latents)
        return drawn

    def _run_story(self, latents: TensorDict | None) -> None:
        try:
            with _CorrectPriors(self, latents):
                run(self.story, len(self.loc))
        except _AllDrawnError:
            pass


class _AllDrawnError(Exception):
    """Leaves the story after its last latent site: what it generates from them is not wanted."""


class _CorrectPriors(Messenger):
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
        msg["fn"] = self._corrected(name, msg["fn"])
        if self.latents is not None:
            layout = Layout.of(msg["cond_indep_stack"], msg["fn"].event_dim)
            value = layout.to_program(self.latents[name], particle_dim=self.q.particle_dim)
            msg["value"], msg["is_observed"] = value, True

    def _corrected(self, name: str, prior: Any) -> Any:
        """The prior times the row's Gaussian; the Gaussian alone where the prior is not Normal."""
        flat = self.q.flat
        site, part = flat.sites[name], flat.slices[name]
        loc, scale = (
            spread(t[..., part], flat.shapes[name], site) for t in (self.q.loc, self.q.scale)
        )
        base = prior
        while isinstance(base, dist.Independent):
            base = base.base_dist
        if isinstance(base, dist.Normal):
            precision = scale**-2 + base.scale**-2
            loc = (loc * scale**-2 + base.loc * base.scale**-2) / precision
            scale = precision**-0.5
        return normal_at(site, loc, scale, flat.transforms[name]).expand(prior.batch_shape)
