r"""The guide league table: one story, several guides, and what each loses where."""

__all__ = ["League", "LeagueRow", "compare"]

import os
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import nn

from ppvae.config import EvidenceConfig, TrainConfig
from ppvae.data import Rows, Stream, open_rows
from ppvae.gaps import Gaps, check_request, measure_gaps
from ppvae.inference import certify_problem, choose_methods
from ppvae.inference.pieces import in_precision
from ppvae.league import League, LeagueRow
from ppvae.problem import Problem
from ppvae.storage.league_folder import LeagueFolder, open_league_folder
from ppvae.training import History
from ppvae.training.distributed import init_process_group, on_main_process
from ppvae.training.fit import FREE, build_objective, check_config, fit, move_to_device
from ppvae.training.signals import exit_on_sigterm

DECODERS = {
    "shared": "one trained story, every guide fitted to it: isolates the guide",
    "own": "each guide trains a story of its own: shows the story adapting to the guide",
}
# Settings that a report names although they are the defaults.
Trained = dict[str, tuple[Problem, History]]  # guide -> its pair on the measured rows, its training


def compare(
    story: nn.Module,
    guides: Mapping[str, nn.Module],
    data: Any,
    *,
    val: Any = None,
    test: Any = None,
    rows: int = 100,
    train: TrainConfig = TrainConfig(),
    evidence: EvidenceConfig = EvidenceConfig(),
    decoder: str = "shared",
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    executor: Executor | None = None,
) -> League:
    """Train and measure several guides on the same story and the same rows.

    The modules passed in stay as they are; the trained ones are in the result.

    Arguments:
        story: The story.
        guides: Name -> guide.
        data: Training rows, anything that `fit` takes.
        val: Validation rows for early stopping, likewise.
        test: Rows to measure on; None measures on training rows.
        rows: Rows to measure on, the first so many of `test`.
        train: How to train.
        evidence: How to measure.
        decoder: `shared`: the story is trained with the first guide and then fixed, and every guide
            is fitted to it; log p(x) is the best bound that any guide gave. `own`: each guide
            trains a copy of the story.
        run_dir: Folder that keeps trainings and measurements as they go; must be empty or absent
            unless `resume`.
        resume: Go on with the comparison in `run_dir`, given the same story, guides, data and
            settings, wherever it was stopped; on a CPU the league is the one of a comparison that
            was not stopped, bit for bit.
        executor: A `concurrent.futures.Executor` that measures pieces of rows, to the same numbers;
            None measures here. Under torchrun the main process alone measures.

    Returns:
        The league.

    Raises:
        ValueError: If there is no guide, an option is unknown, or story, guides and data do not
            fit; if another process works in `run_dir`, or what is there was begun with other
            settings.
        KeyboardInterrupt: After Ctrl-C; with a run folder what is done is kept.
        SystemExit: After SIGTERM, likewise, with exit code 143; only with a run folder.
    """
    if not guides:
        raise ValueError("expected at least one guide, got none")
    if decoder not in DECODERS:
        raise ValueError(f"expected a decoder among {', '.join(DECODERS)}; got '{decoder}'")
    if train.patience is not None and val is None:
        raise ValueError(
            f"expected validation rows (val) for patience={train.patience}, got val=None"
        )
    if rows < 1:
        raise ValueError(f"expected at least one row to measure on, got rows={rows}")
    check_config(train)
    init_process_group()
    train_rows = open_rows(data)
    test_rows = train_rows if test is None else open_rows(test)
    measured = test_rows.head(min(rows, len(test_rows)))
    check_request(story, evidence, measured)
    settings = {k: v for k, v in train.to_dict().items() if k not in FREE}
    settings |= {f"evidence.{k}": v for k, v in evidence.to_dict().items() if k != "progress"}
    settings |= {
        "data": train_rows.name, "training rows": len(train_rows), "rows": len(measured),
        "decoder": decoder, "guides": list(guides),
    }  # fmt: skip
    with ExitStack() as stack:
        if run_dir is not None:
            stack.enter_context(exit_on_sigterm())
        opened = open_league_folder(run_dir, settings, resume=resume)
        folder = on_main_process(lambda: stack.enter_context(opened))
        trained = {
            name: (problem.with_rows(measured), history)
            for name, (problem, history) in _train_all(
                story, guides, train_rows, val, train, decoder, folder
            ).items()
        }
        found = on_main_process(lambda: _measure(trained, evidence, decoder, folder, executor))
    return League(
        gaps=found,
        histories={name: history for name, (_, history) in trained.items()},
        stories={name: problem.story for name, (problem, _) in trained.items()},
        guides={name: problem.guide for name, (problem, _) in trained.items()},
        decoder=decoder,
        num_particles=evidence.num_particles,
        settings=settings,
    )


def _train_all(
    story: nn.Module,
    guides: Mapping[str, nn.Module],
    rows: Rows | Stream,
    val: Any,
    config: TrainConfig,
    decoder: str,
    folder: LeagueFolder,
) -> Trained:
    """Train copies of story and guides; each pair is checked once."""

    def check(story: nn.Module, guide: nn.Module) -> Problem:
        move_to_device(story, guide, config)
        return Problem.for_training(story, guide, rows)

    def train(problem: Problem, name: str | None) -> History:
        objective = build_objective(problem, config)
        own = config.replace(num_particles=1, objective_options={})  # the objective has them
        return fit(
            problem.story, problem.guide, rows,
            val=val, config=own, objective=objective, **folder.training(name),
        )  # fmt: skip

    trained: Trained = {}
    if decoder == "own":
        for name, guide in guides.items():
            problem = check(*deepcopy((story, guide)))  # together: they may share modules
            trained[name] = problem, train(problem, name)
        return trained
    first = check(*deepcopy((story, next(iter(guides.values())))))
    train(first, None)
    shared = first.story.requires_grad_(False)
    parts = dict(zip(map(id, story.modules()), shared.modules(), strict=True))
    for name, guide in guides.items():
        fitted = deepcopy(guide, dict(parts))  # what it shares with the story, it goes on sharing
        if trained:
            problem = check(shared, fitted)
        else:  # the first guide was checked when the story was trained with it
            move_to_device(shared, fitted, config)
            problem = first.with_guide(fitted)
        trained[name] = problem, train(problem, name)
    return trained


def _measure(
    trained: Trained,
    config: EvidenceConfig,
    decoder: str,
    folder: LeagueFolder,
    executor: Executor | None,
) -> dict[str, Gaps]:
    """Every guide's gaps; one story has one log p(x), the best bound in mean, and one
    certificate.
    """
    shared = decoder == "shared"
    own = config.replace(num_simulated=0) if shared else config
    problems = {name: _in_precision(problem, config) for name, (problem, _) in trained.items()}
    found = {
        name: measure_gaps(problem, own, folder.measurement(name), executor)
        for name, problem in problems.items()
    }
    if not shared:
        return found
    best = max(found, key=lambda name: float(found[name].log_evidence.value.mean()))
    certificate = None
    if any("ais" in choose_methods(problem, config) for problem in problems.values()):
        certificate = certify_problem(problems[best], config, folder.measurement(), executor)
    method = found[best].method
    common: dict[str, Any] = {
        "log_evidence": found[best].log_evidence,
        "method": method if method == "exact" else f"{method} from {best}",
        "certificate": certificate,
    }
    return {name: replace(gaps, **common) for name, gaps in found.items()}


def _in_precision(problem: Problem, config: EvidenceConfig) -> Problem:
    if config.precision == "auto":
        return problem
    story, guide = in_precision(config.precision, problem.story, problem.guide)
    return Problem.of(story, guide, problem.batch)
