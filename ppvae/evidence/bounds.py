r"""Lower bounds on log p(x) from importance weights: the ELBO, the importance-weighted ELBO, and its limit."""

__all__ = ["elbo", "importance_evidence", "iwelbo", "log_mean_exp"]

import math
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.chunks import particle_step, row_chunks
from ppvae.estimate import Estimate
from ppvae.story import measuring, num_rows_of
from ppvae.weights import batch_for, check_pair, log_weights, score


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
        ValueError: If story, guide and data do not fit.

    Source:
        D. P. Kingma, M. Welling (2014). Auto-encoding variational Bayes.
    """
    batch = batch_for(story, data)
    sites = check_pair(story, guide, batch)
    parts = []
    with torch.no_grad(), measuring(seed, story, guide):
        for rows in row_chunks(batch, guide):
            draws = []
            for size in _pieces(num_particles, particle_step(rows, num_rows_of(rows))):
                scores = score(story, guide, rows, size, sites=sites)
                shared = scores.log_shared / num_rows_of(batch)
                draws.append(scores.log_weights + shared.unsqueeze(-1))
            parts.append(Estimate.of_draws(torch.cat(draws)))
    return Estimate.cat(parts)


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
        ValueError: If the story has global latent sites, or story, guide and data do not fit.

    Source:
        Y. Burda, R. Grosse, R. Salakhutdinov (2016). Importance weighted autoencoders.
    """
    weights = log_weights(story, guide, data, num_particles * num_repeats, seed=seed)
    return Estimate.of_draws(log_mean_exp(weights.unflatten(0, (num_repeats, num_particles)), 1))


def importance_evidence(log_w: Tensor) -> Estimate:
    r"""log p(x) from importance weights, :math:`\log \frac{1}{K} \sum_k w_k`, with a delta-method error.

    A lower bound in expectation. Trust the error where `khat` is below its threshold.

    Arguments:
        log_w: Log weights, `(K, B)`, in nats.

    Returns:
        `(B,)`, in nats.

    Raises:
        ValueError: If a row's weights are all zero, or one is NaN: the message counts the rows.
    """
    bad = int((~torch.isfinite(log_w.amax(0))).sum())
    if bad:
        raise ValueError(
            f"expected finite log weights, got none in {bad} of {log_w.shape[1]} rows: the guide has lost the "
            "support of the posterior, or the story's density is NaN there"
        )
    share = log_w.softmax(0)
    spread = (len(log_w) * share.square().sum(0) - 1).clamp(min=0)
    return Estimate(log_mean_exp(log_w, 0), (spread / len(log_w)).sqrt())


def log_mean_exp(values: Tensor, dim: int) -> Tensor:
    """log of the mean of exp along `dim`."""
    return values.logsumexp(dim) - math.log(values.shape[dim])


def _pieces(total: int, step: int) -> list[int]:
    return [min(step, total - start) for start in range(0, total, step)]
