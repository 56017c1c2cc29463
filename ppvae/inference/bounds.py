r"""Lower bounds on log p(x) from importance weights: the ELBO and the importance-weighted ELBO."""

__all__ = ["elbo", "estimate_elbo", "iwelbo", "log_weights"]

import math
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data.chunks import particle_step, pieces
from ppvae.estimate import Estimate
from ppvae.inference.check_finite import check_finite
from ppvae.problem import Problem


def elbo(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    num_particles: int = 100,
    seed: int | None = 0,
) -> Estimate:
    r"""The evidence lower bound :math:`L[q] = E_q[\log p(x, z) - \log q(z|x)]` of each row.

    Arguments:
        story: The story.
        guide: Any Pyro guide for it.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_particles: S, at least 2 for a standard error.
        seed: Seed of the draws.

    Returns:
        `(B,)`, in nats per row, higher is better. Global sites count 1/N in each row; their error
        is common to all rows.

    Raises:
        ValueError: If story, guide and data do not fit, or a bound is not finite: naming the rows
            and the site.

    Source:
        D. P. Kingma, M. Welling (2014). Auto-encoding variational Bayes.
    """
    return estimate_elbo(Problem.of(story, guide, data), num_particles, seed)


def estimate_elbo(problem: Problem, num_particles: int, seed: int | None) -> Estimate:
    """As `elbo`, of rows that are checked already."""
    parts = []
    with torch.no_grad(), problem.eval_mode(seed):
        for piece in problem.pieces():
            draws = []
            for size in piece.particle_sizes(num_particles):
                scores = piece.score(size)
                of_globals = scores.log_global / problem.num_rows
                draws.append(scores.log_weights + of_globals.unsqueeze(-1))
            parts.append(Estimate.of_draws(torch.cat(draws)))
    found = Estimate.cat(parts)
    check_finite(found.value, problem)
    return found


def iwelbo(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    num_particles: int = 10,
    num_repeats: int = 10,
    seed: int | None = 0,
) -> Estimate:
    r"""The importance-weighted bound :math:`L_K = E \log \frac{1}{K} \sum_k w_k` of each row.

    `L_1` is the ELBO; larger K never lowers the bound.

    Arguments:
        story: The story.
        guide: Any Pyro guide for it.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_particles: K.
        num_repeats: Independent repeats, whose mean is returned and whose spread gives the standard
            error.
        seed: Seed of the draws.

    Returns:
        `(B,)`, in nats per row, higher is better.

    Raises:
        ValueError: If the story has global latent sites, story, guide and data do not fit, or a
            bound is not finite.

    Source:
        Y. Burda, R. Grosse, R. Salakhutdinov (2016). Importance weighted autoencoders.
    """
    problem = Problem.of(story, guide, data, independent_for="importance weights per row")
    parts = []
    with torch.no_grad(), problem.eval_mode(seed):
        for piece in problem.pieces():
            room, bounds = particle_step(piece.batch, piece.num_rows), []
            for repeats in pieces(num_repeats, max(1, room // num_particles)):
                log_sum = torch.tensor(-torch.inf)
                for size in pieces(num_particles, max(1, room // repeats)):
                    weights = piece.score(repeats * size).log_weights
                    partial = weights.unflatten(0, (repeats, size)).logsumexp(1)
                    log_sum = torch.logaddexp(log_sum.to(partial), partial)
                bounds.append(log_sum - math.log(num_particles))
            parts.append(Estimate.of_draws(torch.cat(bounds)))
    found = Estimate.cat(parts)
    check_finite(found.value, problem)
    return found


def log_weights(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    num_particles: int,
    *,
    seed: int | None = None,
) -> Tensor:
    r"""Importance weights :math:`\log w = \log p(x, z) - \log q(z|x)` in bounded memory.

    Arguments:
        story: The story.
        guide: Any Pyro guide for it.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_particles: S.
        seed: Seed of the draws; None uses the global generator.

    Returns:
        `(S, B)`, in nats, without gradients.

    Raises:
        ValueError: If the story has global latent sites, whose rows are not independent.
    """
    problem = Problem.of(story, guide, data, independent_for="importance weights per row")
    with torch.no_grad(), problem.eval_mode(seed):
        columns = [piece.log_weights(num_particles) for piece in problem.pieces()]
    return torch.cat(columns, 1)
