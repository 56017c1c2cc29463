r"""How much the inference loses, and why: approximation gap and amortization gap of each row."""

__all__ = ["Gaps", "check_request", "gaps", "measure_gaps"]

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ppvae.config import EvidenceConfig
from ppvae.data.chunks import is_unamortized
from ppvae.estimate import Estimate
from ppvae.inference import Sandwich, certify_problem, choose_methods, estimate_elbo, fit_local
from ppvae.inference.exact import check_exact
from ppvae.inference.khat import khat, khat_threshold
from ppvae.inference.log_evidence import FRESH, row_settings
from ppvae.inference.methods import check_choice, measure_evidence, numbers_of_a_row
from ppvae.inference.pieces import in_precision, map_rows, piece_size, results_file, sibling_path
from ppvae.problem import Problem
from ppvae.progress import Stage
from ppvae.result import Result
from ppvae.story import TensorDict

if TYPE_CHECKING:
    import pandas as pd


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
        khat_threshold: k-hat above which a row's weights are not to be trusted, for the particles
            used.
        certificate: Bounds on log p(x) of simulated rows, annealed with the same effort; None where
            none was.
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
    config: EvidenceConfig = EvidenceConfig(),
    checkpoint: Path | str | None = None,
    executor: Executor | None = None,
    **fields: Any,
) -> Gaps:
    """Measure the approximation gap and the amortization gap of a guide on each row.

    The story's parameters stay fixed. For each row the best member q* of the guide's own family is
    searched, starting at the guide's answer.

    Arguments:
        story: The story.
        guide: A guide of `ppvae.guides`, or any Pyro guide whose sites are independent given the
            row.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        config: How to measure.
        checkpoint: A file that keeps what is done, with one beside it for the certificate; a call
            that finds them goes on from there, to the same numbers.
        executor: A `concurrent.futures.Executor` that measures pieces of rows, to the same numbers,
            bit for bit; None measures here. Its workers need `ppvae`; classes from notebooks and
            scripts travel with the story.
        fields: Fields of `config` to change.

    Returns:
        The gaps.

    Raises:
        ValueError: If the story has global latent sites, the guide has no unamortized version, or
            an executor is given and the two cannot be pickled.
        ConnectionError: If a worker of the executor has ended: naming the rows that are not done.

    Source:
        C. Cremer, X. Li, D. Duvenaud (2018). Inference suboptimality in variational autoencoders.
    """
    config = config.replace(**fields)
    story, precise = in_precision(config.precision, story, guide)
    problem = Problem.of(story, precise, data, independent_for="gaps")
    return measure_gaps(problem, config, checkpoint, executor)


def measure_gaps(
    problem: Problem,
    config: EvidenceConfig,
    checkpoint: Path | str | None = None,
    executor: Executor | None = None,
) -> Gaps:
    """As `gaps`, of rows that are checked already."""
    if is_unamortized(problem.guide):
        raise ValueError(
            "expected an amortized guide, got one with parameters for each row: its gaps have no "
            "encoder's part"
        )
    threshold = khat_threshold(config.num_particles)
    methods = choose_methods(problem, config)
    numbers = numbers_of_a_row(methods, problem, config)
    found = map_rows(
        partial(_measure_piece, methods=methods, config=config),
        problem,
        piece_size(problem, config.rows_per_piece, numbers),
        seed=config.seed,
        checkpoint=results_file(checkpoint, {"methods": methods, **row_settings(config)}, problem),
        executor=executor,
        num_stages=3 + len(methods),
        progress=config.progress,
    )
    certificate = None
    if "ais" in methods:
        file = sibling_path(checkpoint, "certificate")
        certificate = certify_problem(problem, config, file, executor)
    method = max(methods, key=lambda m: float(found[m].mean()))
    return Gaps(
        log_evidence=Estimate.named(method, found),
        elbo_local=Estimate.named("elbo_local", found),
        elbo=Estimate.named("elbo", found),
        method=method,
        khat=found["khat"],
        local_steps=int(found["local_steps"].max()),
        local_converged=bool(found["local_converged"].all()),
        khat_threshold=threshold,
        certificate=certificate,
    )


def check_request(story: nn.Module, config: EvidenceConfig, data: Any) -> None:
    """Refuse what `gaps` cannot do on rows like these, before anything long is begun.

    Raises:
        ValueError: If the method is unknown or the story has no closed form for it, or there are
            too few particles.
    """
    khat_threshold(config.num_particles)
    check_choice(config.method)
    if config.method == "exact":
        check_exact(Problem.of(story, None, data))


def _measure_piece(
    rows: Problem, seed: int, stage: Stage, *, methods: list[str], config: EvidenceConfig
) -> TensorDict:
    """Everything that is measured of a row: q*, log p(x) by each method, both ELBOs, k-hat."""
    stage("searching q*")
    local, search = fit_local(rows, config.local_steps, seed)
    found: TensorDict = {}
    for method in methods:
        stage(f"log p(x) by {method}")
        one = measure_evidence(local, method, config, seed + FRESH)
        found |= Estimate(one["value"], one["std_error"]).to_named(method)
    stage("scoring q*")
    found |= estimate_elbo(local, config.elbo_particles, seed + 5).to_named("elbo_local")
    stage("scoring the guide")
    found |= estimate_elbo(rows, config.elbo_particles, seed + 2).to_named("elbo")
    with rows.eval_mode(seed + 3), torch.no_grad():
        found["khat"] = khat(rows.log_weights(config.num_particles))
    ones = torch.ones(rows.num_rows, dtype=torch.int64)
    found["local_steps"] = ones * (search.num_steps if search else 0)
    found["local_converged"] = ones * (search.converged if search else False)
    return found
