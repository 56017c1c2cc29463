r"""Rows encoded and decoded again."""

__all__ = ["reconstruct"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ppvae.problem import Problem
from ppvae.problem.generation import decode
from ppvae.story import TensorDict


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
            an observed site's distribution has no mean, or `num_particles` is below 1.
    """
    if num_particles < 1:
        raise ValueError(f"expected at least one particle, got num_particles={num_particles}")
    problem = Problem.of(story, guide, data)
    parts: list[TensorDict] = []
    with torch.no_grad(), problem.eval_mode(seed):
        for piece in problem.pieces():
            total: TensorDict = {}
            for size in piece.particle_sizes(num_particles):
                means = decode(piece, piece.draw_all(size).values, given, mean=True)
                for name, mean in means.items():
                    total[name] = total.get(name, torch.zeros_like(mean[0])) + mean.sum(0)
            parts.append({name: t / num_particles for name, t in total.items()})
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
