r"""log p(x) of each row, by the method that the user names."""

__all__ = ["METHODS", "ROWS_AT_A_TIME", "Effort", "evidence_from", "log_evidence"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ppvae.chunks import row_slices
from ppvae.estimate import Estimate
from ppvae.evidence.annealed import Annealing
from ppvae.evidence.bounds import importance_evidence
from ppvae.evidence.quadrature import quadrature_evidence
from ppvae.guides.local import localize, optimize_local
from ppvae.story import TensorDict, has_missing, measuring
from ppvae.weights import batch_for, check_pair, log_weights, refuse_global

METHODS: dict[str, str] = {
    "exact": "the story's own closed form",
    "iwae": "importance sampling with q* as the proposal",
    "ais": "annealed importance sampling from q* with batched HMC",
    "quadrature": "a grid placed by q*, for at most three latent numbers a row",
}

# Rows whose q* and chains are held in memory at a time.
ROWS_AT_A_TIME = 250


@dataclass(frozen=True)
class Effort:
    """How much work an evidence estimate may do.

    Arguments:
        num_particles: Particles of `iwae`.
        num_chains: Chains of `ais`.
        num_temperatures: Temperatures of `ais`, in a linear schedule.
        num_leapfrog: Leapfrog steps of a transition of `ais`.
        seed: Seed of all draws; None uses the global generator.
    """

    num_particles: int = 1000
    num_chains: int = 16
    num_temperatures: int = 50
    num_leapfrog: int = 5
    seed: int | None = 0


def log_evidence(
    story: nn.Module,
    data: Any,
    *,
    method: str = "ais",
    guide: nn.Module | None = None,
    num_particles: int = 1000,
    num_chains: int = 16,
    num_temperatures: int = 50,
    num_leapfrog: int = 5,
    seed: int | None = 0,
) -> Estimate:
    """log p(x) of each row; `iwae` and `ais` are lower bounds in expectation.

    Arguments:
        story: The story.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        method: `exact` (the story's closed form), `iwae`, `ais` or `quadrature`.
        guide: Needed by all but `exact`. An amortized guide is first refined to q* on each row; a local guide is
            used as it is.
        num_particles: Particles of `iwae`.
        num_chains: Chains of `ais`.
        num_temperatures: Temperatures of `ais`, in a linear schedule.
        num_leapfrog: Leapfrog steps of a transition of `ais`.
        seed: Seed of all draws.

    Returns:
        `(B,)`, in nats per row.

    Raises:
        ValueError: If the method is unknown, a guide is needed and absent, the story has no closed form or has
            global latent sites, or a row's weights are all zero.

    Source:
        Y. Burda, R. Grosse, R. Salakhutdinov (2016). Importance weighted autoencoders.
        R. M. Neal (2001). Annealed importance sampling.
    """
    if method not in METHODS:
        raise ValueError(f"expected an evidence method among {', '.join(METHODS)}; got '{method}'")
    batch = batch_for(story, data)
    fresh = None if seed is None else seed + 7  # not the draws that q* was fitted to
    effort = Effort(num_particles, num_chains, num_temperatures, num_leapfrog, fresh)
    if method == "exact":
        return exact_evidence(story, batch)
    if guide is None:
        raise ValueError(f"method '{method}' needs a guide to start from; pass guide=...")
    refuse_global(check_pair(story, guide, batch), "log evidence per row")
    if getattr(guide, "is_local", False):
        return evidence_from(method, story, guide, batch, effort)
    parts = []
    for rows in row_slices(batch, ROWS_AT_A_TIME):
        local = localize(guide, rows, story)
        optimize_local(story, local, seed=seed)
        parts.append(evidence_from(method, story, local, rows, effort))
    return Estimate.cat(parts)


def evidence_from(
    method: str, story: nn.Module, guide: nn.Module, batch: TensorDict, effort: Effort
) -> Estimate:
    """log p(x) by one method, from a guide as it is, without refining it.

    Arguments:
        method: A key of `METHODS`.
        story: The story.
        guide: The proposal, or where annealing starts.
        batch: Rows, name -> `(B, *event)`.
        effort: Particles, chains, temperatures.

    Returns:
        `(B,)`, in nats per row.
    """
    if method == "exact":
        return exact_evidence(story, batch)
    if method == "quadrature":
        return quadrature_evidence(story, guide, batch)
    if method == "iwae":
        log_w = log_weights(story, guide, batch, effort.num_particles, seed=effort.seed)
        return importance_evidence(log_w)
    sites = check_pair(story, guide, batch)
    with measuring(effort.seed, story, guide), torch.no_grad():
        annealing = Annealing(
            story,
            guide,
            batch,
            sites,
            num_temperatures=effort.num_temperatures,
            num_leapfrog=effort.num_leapfrog,
        )
        return importance_evidence(annealing.forward(effort.num_chains))


def exact_evidence(story: nn.Module, batch: TensorDict) -> Estimate:
    """The story's closed form, with no error."""
    closed_form: Any = getattr(story, "log_evidence", None)
    if closed_form is None:
        raise ValueError(
            f"expected {type(story).__name__} to define log_evidence(batch), its closed form; it does not, so "
            "use method 'iwae' or 'ais' with a guide"
        )
    missing = sorted(k for k, v in batch.items() if has_missing(v))
    if missing:
        raise ValueError(
            f"expected complete rows for the closed form of {type(story).__name__}, got missing values (NaN) in "
            f"{missing}; use 'iwae' or 'ais', which leave them out"
        )
    with torch.no_grad():
        return Estimate.exact(closed_form(batch))
