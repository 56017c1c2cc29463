r"""Rows encoded and decoded again."""

__all__ = ["reconstruct"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ppvae.data.chunks import row_chunks
from ppvae.problem.weights import draw_all
from ppvae.story import TensorDict, seeded_eval

from .decoder import leaves, mean_or_hold, paired, particle_steps, wanted_of


def reconstruct(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    given: Sequence[str] = (),
    num_particles: int = 1,
    seed: int = 0,
) -> TensorDict:
    """Encode rows and decode them again: the mean of each observed site under the guide's draws.

    The story is run on the latent draws alone, so that no observed value can come back by itself.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        given: Observed sites to hold at their data, such as labels that other sites depend on; they
            are not reconstructed.
        num_particles: Draws of each row, S; the means are averaged over them.
        seed: Seed of the draws.

    Returns:
        Observed site -> `(B, *row)`, in the data's own unit.

    Raises:
        ValueError: If the data or the guide do not fit the story, `given` names no observed site,
            or an observed site's distribution has no mean.
    """
    batch, sites = paired(story, guide, data, num_particles)
    wanted = wanted_of(sites, given)
    parts: list[TensorDict] = []
    with torch.no_grad(), seeded_eval(seed, story, guide):
        for rows in row_chunks(batch, guide):
            total: TensorDict = {}
            for size in particle_steps(rows, num_particles):
                latents = draw_all(story, guide, rows, size, sites).values
                found = leaves(story, rows, latents, sites, given, wanted, mean_or_hold)
                for name, means in found.items():
                    total[name] = total.get(name, torch.zeros_like(means[0])) + means.sum(0)
            parts.append({name: t / num_particles for name, t in total.items()})
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
