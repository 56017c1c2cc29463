r"""Where rows lie: the posterior means of their latent sites."""

__all__ = ["embed"]

from typing import Any

from torch import nn

from ppvae.estimate import Estimate

from .decoder import paired
from .moments import moments


def embed(
    story: nn.Module, guide: nn.Module, data: Any, *, num_particles: int = 100, seed: int = 0
) -> dict[str, Estimate]:
    """The posterior mean of every latent site, row by row: the guide's, or the exact one where it leaves a site out.

    The mean of a discrete site is that of its numbers: a probability for a coin, an expected count
    for a count, of little meaning for a category.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_particles: Draws of each row, S.
        seed: Seed of the draws.

    Returns:
        Latent site -> estimate `(B, *row)` in the site's own unit; a global site has its own shape. A finite site that
        some rows miss, such as a label, stands there too.

    Raises:
        ValueError: If the data or the guide do not fit the story, or `num_particles` is below 1.
    """
    batch, sites = paired(story, guide, data, num_particles)
    return moments(
        story, guide, batch, sites,
        num_particles=num_particles, seed=seed, shared=sites.global_latent,
    )  # fmt: skip
