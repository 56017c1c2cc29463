r"""log p(x, z) row by row, for any number of particles."""

__all__ = ["LogJoint", "log_joint"]

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ppvae.story.batch import Batch, as_batch, num_rows_of
from ppvae.story.messengers import RowLogProb
from ppvae.story.observe import run_observed, sites_of
from ppvae.story.program import TensorDict, local_params, particle_plate
from ppvae.story.sites import Sites


class LogJoint:
    """log p(x, z) row by row for fixed rows x and any number of particles z.

    Global sites are conditioned on, and their own log p is not part of a row: `split` gives it apart.

    Arguments:
        story: The story.
        batch: The rows x, name -> `(B, *event)`.
        sites: The story's sites, if already known.
    """

    def __init__(self, story: nn.Module, batch: Batch, sites: Sites | None = None) -> None:
        self.story = story
        self.batch = as_batch(batch)
        self.sites = sites_of(story, self.batch) if sites is None else sites

    def __call__(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Score particles.

        Arguments:
            latents: Every latent site, name -> `(S, B, *row)`; a global site `(S, *row)`.

        Returns:
            log p(x, z) with shape `(S, B)`, in nats.
        """
        return self.split(latents)[0]

    def split(self, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As `__call__`, with the global sites' log p apart: `(S, B)` and `(S,)`, in nats."""
        missing = sorted(set(self.sites.latent) - set(latents))
        if missing:
            raise ValueError(f"expected a value for every latent site, got none for {missing}")
        num_particles = next(iter(latents.values())).shape[0] if latents else 1
        try:
            return self._together(latents, num_particles)
        except (RuntimeError, ValueError, IndexError):
            if not hasattr(self.story, "run_conditioned"):
                raise
        # An adopted model need not know particles (a convolutional decoder): one run for each.
        each = [self._alone({k: v[s] for k, v in latents.items()}) for s in range(num_particles)]
        return torch.cat([local for local, _ in each]), torch.cat([shared for _, shared in each])

    def by_site(self, latents: Mapping[str, Tensor]) -> TensorDict:
        """log p of each site by itself, name -> `(S, B)`, a global site `(S,)`, in nats."""
        return self._scored(latents, next(iter(latents.values())).shape[0]).by_site

    def _together(self, latents: Mapping[str, Tensor], num_particles: int) -> tuple[Tensor, Tensor]:
        scored = self._scored(latents, num_particles)
        return scored.local, scored.shared

    def _scored(self, latents: Mapping[str, Tensor], num_particles: int) -> RowLogProb:
        dim = self.sites.particle_dim
        scored = RowLogProb(dim, num_particles, num_rows_of(self.batch))
        with local_params(self.story), scored, particle_plate(num_particles, dim):
            run_observed(self.story, self.batch, latents, dim)
        return scored

    def _alone(self, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One particle, with no dimension for it: `(1, B)` and `(1,)`."""
        scored = RowLogProb(self.sites.particle_dim, 1, num_rows_of(self.batch))
        with local_params(self.story), scored:
            run_observed(self.story, self.batch, latents, 0)
        return scored.local, scored.shared


def log_joint(story: nn.Module, batch: Batch, latents: Mapping[str, Tensor]) -> Tensor:
    """log p(x, z) of each particle and row; where the story has global sites g, log p(x, z | g).

    Arguments:
        story: The story; its observation densities are normalised.
        batch: Rows x, name -> `(B, *event)`; NaN is missing and does not count.
        latents: Every latent site, name -> `(S, B, *row)`; a global site `(S, *row)`.

    Returns:
        `(S, B)`, in nats.

    Raises:
        ValueError: If a latent site is absent.
    """
    return LogJoint(story, batch)(latents)
