r"""log p(x) of each row, by the method that the user names."""

__all__ = ["FRESH", "ais", "log_evidence", "measure_rows", "prepare", "row_settings"]

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ppvae.config import EvidenceConfig
from ppvae.estimate import Estimate
from ppvae.inference.ais import Annealed
from ppvae.inference.local_search import fit_local
from ppvae.inference.methods import (
    choose_methods,
    measure_evidence,
    numbers_of_a_row,
    starts_at_prior,
)
from ppvae.inference.pieces import in_precision, map_rows, piece_size, results_file
from ppvae.problem import Problem
from ppvae.progress import Stage
from ppvae.story import TensorDict

# Between the seeds of a search for q* and of the estimate, which must not use the draws that q* was
# fitted to.
FRESH = 7


def log_evidence(
    story: nn.Module,
    data: Any,
    *,
    guide: nn.Module | None = None,
    config: EvidenceConfig = EvidenceConfig(),
    checkpoint: Path | str | None = None,
    executor: Executor | None = None,
    **fields: Any,
) -> Estimate:
    """log p(x) of each row; `iwae` and `ais` are lower bounds in expectation.

    Arguments:
        story: The story.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        guide: Needed by all methods but `exact` and annealing from the prior. An amortized guide is
            first fitted to q* on each row; an unamortized one is used as it is.
        config: How to measure; of `best` the higher of its methods in mean is returned.
        checkpoint: A file that keeps the rows that are done; a call that finds it goes on from
            there, to the same numbers.
        executor: A `concurrent.futures.Executor` that measures pieces of rows, to the same numbers;
            None measures here.
        fields: Fields of `config` to change.

    Returns:
        `(B,)`, in nats per row.

    Raises:
        ValueError: If the method is unknown, a guide is needed and absent, the story has no closed
            form or has
            global latent sites, discrete sites cannot be summed out, or an estimate is not finite:
            naming rows and site.

    Source:
        Y. Burda, R. Grosse, R. Salakhutdinov (2016). Importance weighted autoencoders.
        R. M. Neal (2001). Annealed importance sampling.
    """
    config = config.replace(**fields)
    problem, methods = prepare(story, guide, data, config)
    found = measure_rows(problem, methods, config, checkpoint, executor)
    best = max(methods, key=lambda method: float(found[method].mean()))
    return Estimate.named(best, found)


def ais(
    story: nn.Module,
    data: Any,
    *,
    guide: nn.Module | None = None,
    config: EvidenceConfig = EvidenceConfig(),
    checkpoint: Path | str | None = None,
    executor: Executor | None = None,
    **fields: Any,
) -> Annealed:
    """Annealed importance sampling, with what `log_evidence(method="ais")` leaves out: acceptance,
    effective chains.

    Arguments:
        story: The story.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        guide: Where annealing starts, first fitted to q*; not needed from the prior.
        config: How to measure; its `method` does not count.
        checkpoint: As in `log_evidence`.
        executor: As in `log_evidence`.
        fields: Fields of `config` to change.

    Returns:
        log p(x) of each row, and how well its chains did.

    Raises:
        ValueError: As `log_evidence`.
    """
    config = config.replace(**fields, method="ais")
    problem, _ = prepare(story, guide, data, config)
    found = measure_rows(problem, ["ais"], config, checkpoint, executor)
    return Annealed(
        Estimate.named("ais", found),
        found["ais acceptance"],
        found["ais ess"],
        int(found["ais num_temperatures"].max()),
    )


def prepare(
    story: nn.Module, guide: nn.Module | None, data: Any, config: EvidenceConfig
) -> tuple[Problem, list[str]]:
    """The rows as a problem in the precision asked for, and the methods that will be run on
    them.
    """
    story, guide = in_precision(config.precision, story, guide)
    if config.method == "exact" or starts_at_prior(config.method, config):
        guide = None
    problem = Problem.of(story, guide, data)
    return problem, choose_methods(problem, config)


def measure_rows(
    problem: Problem,
    methods: Sequence[str],
    config: EvidenceConfig,
    checkpoint: Path | str | None,
    executor: Executor | None,
) -> TensorDict:
    """log p(x) of all rows by each method, piece by piece, from one q* for all of them.

    Returns:
        By name: each method's estimate, what else it tells, and its share of each row's seconds;
            `q* seconds`.
    """
    settings = {"methods": [*methods], **row_settings(config)}
    ticks = 2 * config.annealing.num_temperatures + 1 if "ais" in methods else 0
    adaptive = ticks and config.annealing.temperature_schedule == "adaptive"
    return map_rows(
        partial(_measure_piece, methods=methods, config=config),
        problem,
        piece_size(problem, config.rows_per_piece, numbers_of_a_row(methods, problem, config)),
        seed=config.seed,
        checkpoint=results_file(checkpoint, settings, problem),
        executor=executor,
        num_stages=None if adaptive else 1 + len(methods) + ticks,
        progress=config.progress,
    )


def row_settings(config: EvidenceConfig) -> dict[str, Any]:
    """The settings that the results of a row depend on."""
    settings = config.to_dict()
    for name in ("method", "num_simulated", "progress"):
        del settings[name]
    return settings


def _measure_piece(
    rows: Problem, seed: int, stage: Stage, *, methods: Sequence[str], config: EvidenceConfig
) -> TensorDict:
    first = rows.first_row
    found: TensorDict = {}
    clock = [time.perf_counter()]
    stage(f"row {first}: searching q*")
    if any(method != "exact" for method in methods):
        rows, _ = fit_local(rows, config.local_steps, seed)
    clock.append(time.perf_counter())
    for method in methods:
        tick = partial(stage, f"row {first}: {method}")
        one = measure_evidence(rows, method, config, seed + FRESH, tick)
        found |= Estimate(one.pop("value"), one.pop("std_error")).to_named(method)
        found |= {f"{method} {name}": value for name, value in one.items()}
        clock.append(time.perf_counter())
    for name, (start, end) in zip(("q*", *methods), pairwise(clock), strict=True):
        found[f"{name} seconds"] = torch.full((rows.num_rows,), (end - start) / rows.num_rows)
    return found
