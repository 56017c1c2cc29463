r"""What is measured at the end of an epoch: the plain ELBO, KL and active units by site."""

__all__ = ["checked_batches", "site_telemetry", "validation_elbo"]

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ppvae.data import Rows, Stream, iter_chunks
from ppvae.estimate import Estimate
from ppvae.predict.embed import ACTIVE_VARIANCE, variance_over_rows
from ppvae.problem import Problem
from ppvae.problem.kl_terms import kl_terms
from ppvae.story import TensorDict, check_values, num_rows_of

NUM_PARTICLES = 10


def validation_elbo(problem: Problem, rows: Rows | Stream) -> float:
    """Plain ELBO with one particle and the same noise at every epoch, in nats per row."""
    total = 0.0
    with torch.no_grad(), problem.eval_mode(0):
        for piece in checked_batches(problem, iter_chunks(problem.story, rows), rows):
            scores = problem.on(piece).score(1)
            log_global = scores.log_global.sum() * num_rows_of(piece) / len(rows)
            total += float(scores.log_weights.sum() + log_global)
    return total / len(rows)


def site_telemetry(problem: Problem) -> dict[str, Any]:
    """KL and active units of each latent site; see `kl_by_site`, `active_units` for errors.

    Arguments:
        problem: The pair, and a few hundred rows.

    Returns:
        `kl`, site -> nats per row, and `active_units`, site -> how many of its numbers say
        something about the row; both None where there are no latent sites, where rows depend on
        each other through global ones, or for one row.
    """
    sites = problem.sites
    if not sites.latent or sites.global_latent or problem.num_rows < 2:
        return {"kl": None, "active_units": None}
    with torch.no_grad(), problem.eval_mode(0):
        latents, terms = kl_terms(problem, NUM_PARTICLES)
    kl = {
        name: float(t.flatten(2).sum(-1).mean() if t.dim() > 2 else t.mean())
        for name, t in terms.items()
    }
    means = {name: Estimate.of_draws(draws) for name, draws in latents.items()}
    variances = {name: variance_over_rows(mean).value for name, mean in means.items()}
    active = {name: int((v > ACTIVE_VARIANCE).sum()) for name, v in variances.items()}
    return {"kl": kl, "active_units": active}


def checked_batches(
    problem: Problem, batches: Iterable[TensorDict], rows: Rows | Stream
) -> Iterator[TensorDict]:
    """Batches, of a stream checked by value as they come: only its first rows were before."""
    unchecked = isinstance(rows, Stream) and problem.program.generates_rows
    for batch in batches:
        if unchecked:
            check_values(problem.sites, batch)
        yield batch
