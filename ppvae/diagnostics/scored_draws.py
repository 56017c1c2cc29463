r"""Draws of a guide with their log densities under story and guide."""

__all__ = ["ScoredDraws", "cat_nested", "score_draws"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppvae.estimate import Estimate
from ppvae.problem import Problem, missing_rows
from ppvae.story import TensorDict


@dataclass(frozen=True)
class ScoredDraws:
    """S draws of B rows and their log densities, in nats.

    Arguments:
        latents: Latent site, and observed site that some rows miss, -> `(S, B, *row)`; a global
            site `(S, *event)`.
        log_joint: log p(x, z) of the row, given the global sites, `(S, B)`.
        log_guide: log q(z | x) of the row, given the global sites, `(S, B)`.
        log_joint_global: log p of the global sites, `(S,)`; 0 without any.
        log_guide_global: log q of the global sites, `(S,)`; 0 without any.
        log_likelihood: Observed site -> log p(x | z), `(S, B)`; 0 in rows where the site is
            missing.
    """

    latents: TensorDict
    log_joint: Tensor
    log_guide: Tensor
    log_joint_global: Tensor
    log_guide_global: Tensor
    log_likelihood: TensorDict

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) − log q(z | x) of each row, given the global sites, `(S, B)`."""
        return self.log_joint - self.log_guide

    @property
    def total_log_likelihood(self) -> Tensor:
        """log p(x | z) over all observed sites, `(S, B)`."""
        return torch.stack(list(self.log_likelihood.values())).sum(0)

    @classmethod
    def cat(cls, parts: Sequence["ScoredDraws"], dim: int = 0) -> "ScoredDraws":
        """More draws of the same rows (dim 0), or of consecutive rows (dim 1), as one."""
        return cls(**cat_nested([vars(part) for part in parts], dim))


def score_draws(problem: Problem, num_particles: int) -> ScoredDraws:
    """Draw every latent site and score the draws, in pieces of particles that fit in memory.

    Arguments:
        problem: Story, guide and rows.
        num_particles: S.
    """
    sizes = problem.particle_sizes(num_particles)
    return ScoredDraws.cat([_score(problem, size) for size in sizes])


def _score(problem: Problem, num_particles: int) -> ScoredDraws:
    drawn = problem.draw_all(num_particles)
    log_p = problem.log_joint_by_site(drawn.values)
    global_names = problem.sites.global_latent
    log_joint = torch.stack([v for k, v in log_p.items() if k not in global_names]).sum(0)
    log_prior = [log_p[name] for name in global_names]
    return ScoredDraws(
        latents=drawn.values,
        log_joint=log_joint,
        log_guide=drawn.local.to(log_joint),
        log_joint_global=sum(log_prior, torch.zeros_like(log_joint[:, 0])),
        log_guide_global=drawn.shared.to(log_joint),
        log_likelihood={
            name: log_p[name] * ~missing_rows(problem.batch[name])
            if name in drawn.values
            else log_p[name]
            for name in problem.sites.observed
        },
    )


def cat_nested(parts: Sequence[Any], dim: int = 0) -> Any:
    """Tensors, estimates or dicts of them joined along a dimension, if they have it."""
    first = parts[0]
    if isinstance(first, dict):
        return {name: cat_nested([part[name] for part in parts], dim) for name in first}
    if isinstance(first, Estimate):
        return Estimate.cat(list(parts))
    return torch.cat(list(parts), dim) if first.dim() > dim else first
