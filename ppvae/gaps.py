r"""How much the inference loses, and why: approximation gap and amortization gap of each row."""

__all__ = ["Gaps", "gaps"]

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ppvae.data import to_batch
from ppvae.estimate import Estimate
from ppvae.inference import (
    METHODS,
    Annealing,
    EvidenceConfig,
    Sandwich,
    check_method,
    draws_discrete,
    elbo,
    evidence_from,
    exact_evidence,
    is_annealable,
    knows_exact,
)
from ppvae.inference import certify as certify_annealing
from ppvae.inference.annealing import DEFAULT
from ppvae.inference.khat import khat, khat_threshold
from ppvae.inference.local_search import optimize_local, unamortized
from ppvae.inference.methods import FRESH
from ppvae.inference.pieces import kept_rows, over_rows, rows_at_a_time, sibling_path
from ppvae.problem.weights import check_pair, log_weights, refuse_global
from ppvae.progress import Stage, stages
from ppvae.result import Result
from ppvae.story import TensorDict, num_rows_of, trace_sites

if TYPE_CHECKING:
    import pandas as pd

ELBO_PARTICLES = 500
NUM_SIMULATED = 50


@dataclass(frozen=True)
class Gaps(Result):
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

    def to_pandas(self) -> "pd.DataFrame":
        """One line a row; standard errors in columns that end in `_std_error`."""
        import pandas as pd

        columns = {}
        for name in (
            "log_evidence", "elbo_local", "elbo",
            "approximation_gap", "amortization_gap", "inference_gap",
        ):  # fmt: skip
            estimate: Estimate = getattr(self, name)
            columns[name] = estimate.value.cpu().numpy()
            columns[f"{name}_std_error"] = estimate.std_error.cpu().numpy()
        return pd.DataFrame({**columns, "khat": self.khat.cpu().numpy()}).rename_axis("row")


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
    checkpoint: Path | str | None = None,
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
        checkpoint: A file that keeps what is done, with one beside it for the certificate; a call that finds them goes on
            from there, to the same numbers.
        progress: Show a progress bar on a terminal.

    Returns:
        The gaps.

    Raises:
        ValueError: If the story has global latent sites, or the guide has no un-amortized version.

    Source:
        C. Cremer, X. Li, D. Duvenaud (2018). Inference suboptimality in variational autoencoders.
    """
    batch = to_batch(story, data)
    check_request(story, evidence, num_particles, batch)
    if getattr(guide, "is_unamortized", False):
        raise ValueError(
            "expected an amortized guide, got a local one: its gaps have no encoder's part"
        )
    methods = evidence_methods(story, evidence, batch, guide)
    effort = EvidenceConfig(num_particles, annealing, seed=seed)
    refuse_global(check_pair(story, guide, batch), "gaps")
    for method in methods:
        check_method(method, story, guide, batch, effort)
    step = rows_at_a_time(batch, guide)
    told = {"methods": methods, **asdict(effort)}
    kept = kept_rows(checkpoint, told, story, guide, batch)
    total = -(-num_rows_of(batch) // step) * (2 + len(methods)) + 2
    with stages(total, progress) as stage:

        def measure(rows: TensorDict, first_row: int, _: int | None) -> TensorDict:
            own_effort = replace(effort, seed=seed + first_row)
            return _measure(story, guide, rows, methods, own_effort, first_row, stage)

        found = over_rows(batch, measure, step, seed=seed, checkpoint=kept)
        stage("scoring the guide")
        if "khat" not in found:
            found["khat"] = khat(log_weights(story, guide, batch, num_particles, seed=seed + 3))
            score = elbo(story, guide, batch, num_particles=ELBO_PARTICLES, seed=seed + 2)
            found |= score.to_named("elbo")
            if kept is not None:
                kept.write(found)
        certificate = None
        if "ais" in methods and num_simulated:
            stage("certifying on simulated rows")
            file = sibling_path(checkpoint, "certificate")
            certificate = certify(story, guide, batch, effort, num_simulated, file)
    method = max(methods, key=lambda m: float(found[m].mean()))
    return Gaps(
        log_evidence=Estimate.named(method, found),
        elbo_local=Estimate.named("elbo_local", found),
        elbo=Estimate.named("elbo", found),
        method=method,
        khat=found["khat"],
        local_steps=int(found["local_steps"].max()),
        local_converged=bool(found["local_converged"].all()),
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
        annealable = is_annealable(trace_sites(story, batch)) and not draws_discrete(guide)
        return ["iwae", "ais"] if annealable else ["iwae"]
    if evidence not in METHODS:
        known = ", ".join(("auto", "best", *METHODS))
        raise ValueError(f"expected evidence among {known}; got '{evidence}'")
    return [evidence]


def certify(
    story: nn.Module,
    guide: nn.Module,
    batch: TensorDict,
    effort: EvidenceConfig,
    num_rows: int,
    checkpoint: Path | None = None,
) -> Sandwich | None:
    """Bidirectional Monte Carlo with the annealing of `effort`; None for an adopted story, which observes its data
    by itself and so cannot be conditioned on rows that it generated."""
    if hasattr(story, "run_conditioned"):
        return None
    return certify_annealing(
        story, guide, batch, n=num_rows, annealing=effort.annealing, seed=effort.seed,
        checkpoint=checkpoint,
    )  # fmt: skip


def _measure(
    story: nn.Module,
    guide: nn.Module,
    rows: TensorDict,
    methods: list[str],
    effort: EvidenceConfig,
    first_row: int,
    stage: Stage,
) -> TensorDict:
    """log p(x) by each method, L[q*], and how the search for q* went, on a piece of the rows with a seed of its own."""
    seed = effort.seed or 0
    stage("searching q*")
    local = unamortized(guide, rows, story)
    search = optimize_local(story, local, seed=seed)
    found: TensorDict = {}
    fresh = replace(effort, seed=seed + FRESH)
    for method in methods:
        stage(f"log p(x) by {method}")
        found |= evidence_from(method, story, local, rows, fresh, first_row).to_named(method)
    stage("scoring q*")
    best = elbo(story, local, rows, num_particles=ELBO_PARTICLES, seed=seed + 5)
    found |= best.to_named("elbo_local")
    ones = torch.ones(num_rows_of(rows), dtype=torch.int64)
    return found | {
        "local_steps": ones * search.num_steps,
        "local_converged": ones * search.converged,
    }
