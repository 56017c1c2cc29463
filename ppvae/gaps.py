r"""How much the inference loses, and why: approximation gap and amortization gap of each row."""

__all__ = ["Gaps", "gaps"]

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ppvae import ranks
from ppvae.diagnostics.khat import khat, khat_threshold
from ppvae.estimate import Estimate
from ppvae.evidence import (
    METHODS,
    Annealing,
    Effort,
    Sandwich,
    check_method,
    draws_discrete,
    elbo,
    evidence_from,
    exact_evidence,
    is_annealable,
    knows_exact,
)
from ppvae.evidence import certify as certify_annealing
from ppvae.evidence.methods import FRESH
from ppvae.evidence.rows import rows_at_a_time
from ppvae.evidence.settings import DEFAULT
from ppvae.guides import LocalFit, localize, optimize_local
from ppvae.progress import Stage, stages
from ppvae.story import TensorDict, num_rows_of, sites_of
from ppvae.weights import batch_for, check_pair, log_weights, refuse_global

ELBO_PARTICLES = 500
NUM_SIMULATED = 50


@dataclass(frozen=True)
class Gaps:
    """The gaps of each row, `(B,)`, in nats, with standard errors.

    Arguments:
        log_evidence: log p(x), or the best lower bound on it.
        elbo_local: L[q*], the best that the guide's family can do on the row.
        elbo: L[q], what the amortized guide does.
        method: How `log_evidence` was found.
        khat: Pareto k-hat of the amortized guide's importance weights, `(B,)`.
        local_steps: Optimiser steps that q* took, at most.
        local_converged: Whether the search for q* converged, judged on the mean row.
        khat_threshold: k-hat above which a row's weights are not to be trusted, for the particles used.
        certificate: Bounds on log p(x) of simulated rows, annealed with the same effort; None where none was.
    """

    log_evidence: Estimate
    elbo_local: Estimate
    elbo: Estimate
    method: str
    khat: Tensor
    local_steps: int
    local_converged: bool
    khat_threshold: float = 0.7
    certificate: Sandwich | None = None

    @property
    def approximation_gap(self) -> Estimate:
        """log p(x) − L[q*]: what a larger family would win."""
        return self.log_evidence - self.elbo_local

    @property
    def amortization_gap(self) -> Estimate:
        """L[q*] − L[q]: what an encoder of its own for each row would win."""
        return self.elbo_local - self.elbo

    @property
    def inference_gap(self) -> Estimate:
        """log p(x) − L[q], the sum of the two."""
        return self.log_evidence - self.elbo

    def __str__(self) -> str:
        lines = [f"gaps over {len(self.elbo)} rows, nats per row (log evidence by {self.method})"]
        for name in (
            "log_evidence", "elbo_local", "elbo",
            "approximation_gap", "amortization_gap", "inference_gap",
        ):  # fmt: skip
            lines.append(f"  {name:<18} {getattr(self, name).mean()}")
        share = float((self.khat > self.khat_threshold).float().mean())
        lines.append(f"  k-hat above {self.khat_threshold:.2f}  {share:.0%} of the rows")
        if self.certificate is not None:
            lines.append(f"  certificate (BDMC): {self.certificate}")
        if not self.local_converged:
            lines.append(f"  q* had not converged after {self.local_steps} steps")
        return "\n".join(lines)


def gaps(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    evidence: str = "auto",
    num_particles: int = 1000,
    annealing: Annealing = DEFAULT,
    num_simulated: int = NUM_SIMULATED,
    seed: int = 0,
    progress: bool = False,
) -> Gaps:
    """Measure the approximation gap and the amortization gap of a guide on each row.

    The story's parameters stay fixed. For each row the best member q* of the guide's own family is searched,
    starting at the guide's answer.

    Arguments:
        story: The story.
        guide: A guide of `ppvae.guides`, or any Pyro guide whose sites are independent given the row.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        evidence: `auto` (the closed form if the story has one, else `best`), `best` (the higher of `iwae` and
            `ais`, in mean), `exact`, `iwae`, `ais` or `quadrature`.
        num_particles: Particles of `iwae` and k-hat.
        annealing: Settings of `ais`.
        num_simulated: Simulated rows on which bidirectional Monte Carlo certifies the annealing; 0 for none.
        seed: Seed of all draws.
        progress: Show a progress bar on a terminal.

    Returns:
        The gaps.

    Raises:
        ValueError: If the story has global latent sites, or the guide has no un-amortized version.

    Source:
        C. Cremer, X. Li, D. Duvenaud (2018). Inference suboptimality in variational autoencoders.
    """
    batch = batch_for(story, data)
    check_request(story, evidence, num_particles, batch)
    if getattr(guide, "is_local", False):
        raise ValueError(
            "expected an amortized guide, got a local one: its gaps have no encoder's part"
        )
    methods = evidence_methods(story, evidence, batch, guide)
    effort = Effort(num_particles, annealing, seed=seed)
    refuse_global(check_pair(story, guide, batch), "gaps")
    for method in methods:
        check_method(method, story, guide, batch, effort)
    step = rows_at_a_time(batch, guide)
    starts = range(0, num_rows_of(batch), step)
    with stages(len(starts) * (2 + len(methods)) + 2, progress and ranks.is_first()) as stage:

        def measure(start: int) -> _Measured:
            rows = {k: v[start : start + step] for k, v in batch.items()}
            own_effort = replace(effort, seed=seed + start)
            return _measure(story, guide, rows, methods, own_effort, start, stage)

        parts = ranks.each(measure, starts)
        stage("scoring the guide")
        log_w = log_weights(story, guide, batch, num_particles, seed=seed + 3)
        found = elbo(story, guide, batch, num_particles=ELBO_PARTICLES, seed=seed + 2)
        certificate = None
        if "ais" in methods and num_simulated:
            stage("certifying on simulated rows")
            certificate = certify(story, guide, batch, effort, num_simulated)
    log_evidence = {m: Estimate.cat([p.log_evidence[m] for p in parts]) for m in methods}
    method = max(methods, key=lambda m: float(log_evidence[m].value.mean()))
    return Gaps(
        log_evidence=log_evidence[method],
        elbo_local=Estimate.cat([p.elbo_local for p in parts]),
        elbo=found,
        method=method,
        khat=khat(log_w),
        local_steps=max(p.search.num_steps for p in parts),
        local_converged=all(p.search.converged for p in parts),
        khat_threshold=khat_threshold(num_particles),
        certificate=certificate,
    )


def check_request(story: nn.Module, evidence: str, num_particles: int, batch: TensorDict) -> None:
    """Refuse what `gaps` cannot do, before anything long is begun.

    Raises:
        ValueError: If `evidence` is unknown or the story has no closed form for it, or there are too few particles.
    """
    khat_threshold(num_particles)
    if evidence == "exact":
        exact_evidence(story, {name: value[:1] for name, value in batch.items()})
    evidence_methods(story, evidence, batch)


def evidence_methods(
    story: nn.Module, evidence: str, batch: TensorDict, guide: nn.Module | None = None
) -> list[str]:
    """The methods that a choice of `evidence` runs on these rows; annealing is of no use where the guide draws discrete
    sites, which no gradient moves."""
    if evidence == "auto":
        evidence = "exact" if knows_exact(story, batch) else "best"
    if evidence == "best":
        annealable = is_annealable(sites_of(story, batch)) and not draws_discrete(guide)
        return ["iwae", "ais"] if annealable else ["iwae"]
    if evidence not in METHODS:
        known = ", ".join(("auto", "best", *METHODS))
        raise ValueError(f"expected evidence among {known}; got '{evidence}'")
    return [evidence]


def certify(
    story: nn.Module, guide: nn.Module, batch: TensorDict, effort: Effort, num_rows: int
) -> Sandwich | None:
    """Bidirectional Monte Carlo with the annealing of `effort`; None for an adopted story, which observes its data
    by itself and so cannot be conditioned on rows that it generated."""
    if hasattr(story, "run_conditioned"):
        return None
    return certify_annealing(
        story, guide, batch, n=num_rows, annealing=effort.annealing, seed=effort.seed
    )


@dataclass(frozen=True)
class _Measured:
    """log p(x) by each method, L[q*], and how the search for q* went, on as many rows as fit at a time."""

    log_evidence: dict[str, Estimate]
    elbo_local: Estimate
    search: LocalFit


def _measure(
    story: nn.Module,
    guide: nn.Module,
    rows: TensorDict,
    methods: list[str],
    effort: Effort,
    first_row: int,
    stage: Stage,
) -> _Measured:
    """Measure a piece of the rows, with a seed of its own."""
    seed = effort.seed or 0
    stage("searching q*")
    local = localize(guide, rows, story)
    search = optimize_local(story, local, seed=seed)
    found, fresh = {}, replace(effort, seed=seed + FRESH)
    for method in methods:
        stage(f"log p(x) by {method}")
        found[method] = evidence_from(method, story, local, rows, fresh, first_row)
    stage("scoring q*")
    elbo_local = elbo(story, local, rows, num_particles=ELBO_PARTICLES, seed=seed + 5)
    return _Measured(found, elbo_local, search)
