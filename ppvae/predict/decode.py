r"""Latent sites as points of a space that can be walked: real vectors, each of which stands for values in the supports."""

__all__ = ["Walk"]

from dataclasses import dataclass

from torch import Tensor, nn

from ppvae.story import Flat, Sites, TensorDict

from .moments import moments

LOCAL, GLOBAL = "local", "global"


@dataclass(frozen=True)
class Walk:
    r"""The continuous latent sites of a story as real vectors :math:`u`, rows' own beside shared ones.

    Arguments:
        local: Sites inside the plate `data`.
        shared: Global sites.
    """

    local: Flat
    shared: Flat

    @classmethod
    def of(cls, sites: Sites) -> "Walk":
        """The map for a story's sites.

        Raises:
            ValueError: If no latent site of the rows is continuous.
        """
        if not sites.local_continuous:
            raise ValueError(
                f"expected a continuous latent site to walk through, got only {sorted(sites.latent)}; choose values of "
                "them with ppvae.traverse"
            )
        shared = Sites((n, s) for n, s in sites.global_latent.items() if not s.is_discrete)
        return cls(Flat(sites.local_continuous), Flat(shared))

    def centres(
        self,
        story: nn.Module,
        guide: nn.Module,
        batch: TensorDict,
        sites: Sites,
        num_particles: int,
        seed: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Posterior means of `u`: the rows' own `(B, d)`, and those that are shared `(d_shared,)`, None without any."""
        found = moments(
            story, guide, batch, sites,
            num_particles=num_particles, seed=seed, shared=[GLOBAL], view=self._pack,
        )  # fmt: skip
        shared = found.get(GLOBAL)
        return found[LOCAL].value, None if shared is None else shared.value

    def values(self, u: Tensor, shared: Tensor | None) -> TensorDict:
        """Sites at points `u` `(T, B, d)`: `(T, B, *row)`, global ones `(T, *event)`."""
        latents = self.local.unflatten(u)[0]
        if shared is not None:
            latents |= self.shared.unflatten(shared.expand(len(u), -1))[0]
        return latents

    def _pack(self, draws: TensorDict) -> TensorDict:
        parts = {LOCAL: self.local.flatten(draws)}
        if self.shared.sites:
            parts[GLOBAL] = self.shared.flatten(draws)
        return parts
