r"""The methods that find log p(x), each on rows that fit in memory and from a guide as it is."""

__all__ = [
    "FRESH",
    "LOCAL_STEPS",
    "METHODS",
    "EvidenceConfig",
    "check_method",
    "evidence_from",
    "evidence_of",
    "is_from_prior",
]

from dataclasses import dataclass

import torch
from torch import nn

from ppvae.estimate import Estimate
from ppvae.inference.ais import AnnealedPath, Tick
from ppvae.inference.annealing import DEFAULT, Annealing
from ppvae.inference.annealing_path import path_of
from ppvae.inference.check_finite import (
    check_finite,
    checked_pair,
    draws_discrete,
    refuse_unannealable,
)
from ppvae.inference.exact import exact_evidence
from ppvae.inference.importance_sampling import ERRORS, importance_sampling
from ppvae.inference.quadrature import quadrature_evidence
from ppvae.problem.weights import refuse_global
from ppvae.story import TensorDict, check_data, seeded_eval, trace_sites

METHODS: dict[str, str] = {
    "exact": "the story's own closed form, or the sum over finite discrete sites",
    "iwae": "importance sampling with q* as the proposal",
    "ais": "annealed importance sampling from q* with batched HMC",
    "quadrature": "a grid placed by q*, for at most three latent numbers a row",
}
LOCAL_STEPS = 2000
# Between the seeds of a search for q* and of the estimate, which must not use the draws that q* was fitted to.
FRESH = 7
NEEDS_A_GUIDE = "method '{}' needs a guide to start from; pass guide=..."


@dataclass(frozen=True)
class EvidenceConfig:
    """How much work an evidence estimate may do.

    Arguments:
        num_particles: Particles of `iwae`.
        annealing: Settings of `ais`.
        error: Standard error of `iwae`: `delta` or `jackknife`.
        local_steps: Steps that a search for q* may take; 0 takes an amortized guide as it is.
        seed: Seed of all draws; None uses the global generator.
    """

    num_particles: int = 1000
    annealing: Annealing = DEFAULT
    error: str = "delta"
    local_steps: int = LOCAL_STEPS
    seed: int | None = 0

    def __post_init__(self) -> None:
        if self.error not in ERRORS:
            raise ValueError(
                f"expected a standard error among {', '.join(ERRORS)}; got '{self.error}'"
            )
        if self.num_particles < 1:
            raise ValueError(f"expected at least one particle, got {self.num_particles}")


def evidence_from(
    method: str,
    story: nn.Module,
    guide: nn.Module | None,
    batch: TensorDict,
    effort: EvidenceConfig,
    first_row: int = 0,
) -> Estimate:
    """log p(x) by one method, from a guide as it is, without refining it.

    Arguments:
        method: A key of `METHODS`.
        story: The story.
        guide: The proposal, or where annealing starts.
        batch: Rows, name -> `(B, *event)`.
        effort: Particles, annealing, seed.
        first_row: Number of the first row among all that were asked for, for error messages.

    Returns:
        `(B,)`, in nats per row.

    Raises:
        ValueError: As `log_evidence`.
    """
    check_method(method, story, guide, batch, effort)
    found = evidence_of(method, story, guide, batch, effort, first_row, lambda: None)
    return Estimate(found["value"], found["std_error"])


def check_method(
    method: str,
    story: nn.Module,
    guide: nn.Module | None,
    batch: TensorDict,
    effort: EvidenceConfig,
) -> None:
    """Refuse what a method cannot do, before anything long is begun.

    Raises:
        ValueError: Naming the sites that do not suit it, or the guide that it lacks.
    """
    if method == "exact":
        return
    if guide is None and not is_from_prior(method, effort):
        raise ValueError(NEEDS_A_GUIDE.format(method))
    sites = check_data(story, batch) if guide is None else checked_pair(story, guide, batch)
    refuse_global(sites, "log evidence per row")
    if method in ("ais", "quadrature"):
        refuse_unannealable(sites, method)
        if draws_discrete(guide):
            raise ValueError(
                f"expected a guide that draws continuous sites alone for {method}, which moves along gradients, got one "
                "that draws discrete sites; use iwae"
            )


def is_from_prior(method: str, effort: EvidenceConfig) -> bool:
    """Whether a method needs no guide because it anneals from the prior."""
    return method == "ais" and effort.annealing.start == "prior"


def evidence_of(
    method: str,
    story: nn.Module,
    guide: nn.Module | None,
    batch: TensorDict,
    effort: EvidenceConfig,
    first_row: int,
    tick: Tick,
) -> TensorDict:
    """As `evidence_from`, unchecked, as `value` and `std_error`; of `ais` also `acceptance`, `ess`, `num_temperatures`."""
    tick()
    more: TensorDict = {}
    if method == "exact":
        found = exact_evidence(story, batch)
    elif method == "ais":
        found, more = _annealed(story, guide, batch, effort, tick)
    elif guide is None:
        raise ValueError(NEEDS_A_GUIDE.format(method))
    elif method == "quadrature":
        found = quadrature_evidence(story, guide, batch)
    else:
        found = importance_sampling(
            story, guide, batch, effort.num_particles, error=effort.error, seed=effort.seed
        )
    check_finite(found.value, story, guide, batch, first_row)
    return {"value": found.value, "std_error": found.std_error, **more}


def _annealed(
    story: nn.Module, guide: nn.Module | None, batch: TensorDict, effort: EvidenceConfig, tick: Tick
) -> tuple[Estimate, TensorDict]:
    modules = (story,) if guide is None else (story, guide)
    with seeded_eval(effort.seed, *modules), torch.no_grad():
        sites = trace_sites(story, batch)
        path = path_of(effort.annealing.start, story, guide, batch, sites)
        annealed = AnnealedPath(path, effort.annealing, tick)
        chains = annealed.forward()
    num = torch.full_like(chains.ess, len(annealed.tuned.betas) - 1)
    more = {"acceptance": chains.acceptance, "ess": chains.ess, "num_temperatures": num}
    return chains.log_mean(), more
