r"""Lower bounds on log p(x) from importance weights: the ELBO and the importance-weighted ELBO."""

__all__ = ["elbo", "iwelbo"]

import math
from typing import Any

import torch
from torch import nn

from ppvae.data import to_batch
from ppvae.data.chunks import particle_step, pieces, row_chunks
from ppvae.estimate import Estimate
from ppvae.inference.check_finite import check_finite, checked_pair
from ppvae.problem.weights import refuse_global, score
from ppvae.story import TensorDict, num_rows_of, seeded_eval


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
        `(B,)`, in nats per row, higher is better. Global sites count 1/N in each row; their error is common to
        all rows.

    Raises:
        ValueError: If story, guide and data do not fit, or a bound is not finite: naming the rows and the site.

    Source:
        D. P. Kingma, M. Welling (2014). Auto-encoding variational Bayes.
    """
    batch = to_batch(story, data)
    sites = checked_pair(story, guide, batch)

    def bound(rows: TensorDict) -> Estimate:
        draws = []
        for size in pieces(num_particles, particle_step(rows, num_rows_of(rows))):
            scores = score(story, guide, rows, size, sites=sites)
            shared = scores.log_shared / num_rows_of(batch)
            draws.append(scores.log_weights + shared.unsqueeze(-1))
        return Estimate.of_draws(torch.cat(draws))

    with torch.no_grad(), seeded_eval(seed, story, guide):
        parts = [bound(rows) for rows in row_chunks(batch, guide)]
    found = Estimate.cat(parts)
    check_finite(found.value, story, guide, batch)
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
        num_repeats: Independent repeats, whose mean is returned and whose spread gives the standard error.
        seed: Seed of the draws.

    Returns:
        `(B,)`, in nats per row, higher is better.

    Raises:
        ValueError: If the story has global latent sites, story, guide and data do not fit, or a bound is not finite.

    Source:
        Y. Burda, R. Grosse, R. Salakhutdinov (2016). Importance weighted autoencoders.
    """
    batch = to_batch(story, data)
    sites = checked_pair(story, guide, batch)
    refuse_global(sites, "importance weights per row")

    def bound(rows: TensorDict) -> Estimate:
        room = particle_step(rows, num_rows_of(rows))
        bounds = []
        for repeats in pieces(num_repeats, max(1, room // num_particles)):
            log_sum = torch.tensor(-torch.inf)
            for size in pieces(num_particles, max(1, room // repeats)):
                weights = score(story, guide, rows, repeats * size, sites=sites).log_weights
                some = weights.unflatten(0, (repeats, size)).logsumexp(1)
                log_sum = torch.logaddexp(log_sum.to(some), some)
            bounds.append(log_sum - math.log(num_particles))
        return Estimate.of_draws(torch.cat(bounds))

    with torch.no_grad(), seeded_eval(seed, story, guide):
        parts = [bound(rows) for rows in row_chunks(batch, guide)]
    found = Estimate.cat(parts)
    check_finite(found.value, story, guide, batch)
    return found
