r"""Continuous latent sites as real vectors, where lines and means stay in the supports."""

__all__ = ["LatentSpace"]

from dataclasses import dataclass

from torch import Tensor

from ppvae.problem import Problem
from ppvae.story import Flat, Sites, TensorDict

from .embed import posterior_means

LOCAL, GLOBAL = "local", "global"


@dataclass(frozen=True)
class LatentSpace:
    r"""Maps between continuous latent sites and real vectors :math:`u` (`biject_to` of their
    supports).

    Arguments:
        local: Sites inside the plate `data`.
        global_: Sites outside.
    """

    local: Flat
    global_: Flat

    @classmethod
    def of(cls, sites: Sites) -> "LatentSpace":
        """The maps of a story's sites.

        Raises:
            ValueError: If no local latent site is continuous.
        """
        if not sites.local_continuous:
            raise ValueError(
                "expected a continuous latent site to move along, got only "
                f"{sorted(sites.latent)}; choose values of them with ppvae.traverse"
            )
        continuous = Sites((n, s) for n, s in sites.global_latent.items() if not s.is_discrete)
        return cls(Flat(sites.local_continuous), Flat(continuous))

    def posterior_means(
        self, problem: Problem, num_particles: int, seed: int
    ) -> tuple[Tensor, Tensor | None]:
        """Posterior means of `u`, `(B, d)`, and of the global sites, `(d_global,)` or None."""
        means = posterior_means(
            problem, num_particles, seed=seed, global_names=[GLOBAL], transform=self._flatten
        )
        return means[LOCAL].value, means[GLOBAL].value if GLOBAL in means else None

    def unflatten(self, u: Tensor, u_global: Tensor | None = None) -> TensorDict:
        """Sites at points `u` `(S, B, d)`: `(S, B, *row)`, global ones `(S, *event)`."""
        latents = self.local.unflatten(u)[0]
        if u_global is not None:
            latents |= self.global_.unflatten(u_global.expand(len(u), -1))[0]
        return latents

    def _flatten(self, draws: TensorDict) -> TensorDict:
        vectors = {LOCAL: self.local.flatten(draws)}
        if self.global_.sites:
            vectors[GLOBAL] = self.global_.flatten(draws)
        return vectors
