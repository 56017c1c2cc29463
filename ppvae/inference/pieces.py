r"""One loop over pieces of rows: seeds of their own, a file of finished pieces, and any executor to
run them.
"""

__all__ = [
    "Measure",
    "in_precision",
    "map_rows",
    "piece_size",
    "results_file",
    "sibling_path",
]

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ppvae.data.chunks import CHUNK_NUMBERS, is_unamortized, numbers_per_row
from ppvae.inference.executors import Piece, run_on
from ppvae.problem import Problem
from ppvae.progress import Stage, stages
from ppvae.storage.fingerprint import fingerprint
from ppvae.storage.results import ResultsFile
from ppvae.story import TensorDict

SEED_STRIDE = 1009  # between the seeds of consecutive pieces
ROW = "row"  # name of the rows' numbers in a results file

# Rows of a piece, its seed, and what to call at each stage of the work -> results of its rows, name
# -> `(B, *)`.
Measure = Callable[[Problem, int, Stage], TensorDict]


def results_file(
    file: Path | str | None, settings: dict[str, Any], problem: Problem
) -> ResultsFile | None:
    """The checkpoint of a measurement of these rows with these settings; None for no file."""
    if file is None:
        return None
    mark = fingerprint(problem.story, problem.guide, problem.batch)
    return ResultsFile(file, {**settings, "of": mark})


def sibling_path(file: Path | str | None, name: str) -> Path | None:
    """A second file of a measurement beside its first, for what has other rows; None for no
    file.
    """
    return None if file is None else Path(file).with_suffix(f".{name}{Path(file).suffix}")


def piece_size(problem: Problem, rows_per_piece: int, numbers: int = 0) -> int:
    """Rows of a piece: those asked for, fewer where memory asks for it; all for a guide with
    parameters for each row.

    Arguments:
        problem: The rows.
        rows_per_piece: As asked for.
        numbers: Numbers that a row takes while it is measured, in all its chains or nodes.
    """
    if is_unamortized(problem.guide):
        return problem.num_rows
    per_row = max(numbers, numbers_per_row(problem.batch))
    return max(1, min(rows_per_piece, CHUNK_NUMBERS // per_row))


def map_rows(
    measure: Measure,
    problem: Problem,
    size: int,
    *,
    seed: int,
    checkpoint: ResultsFile | None = None,
    executor: Executor | None = None,
    num_stages: int | None = 1,
    progress: bool = False,
) -> TensorDict:
    """Measure rows piece by piece.

    A piece's seed depends on `seed` and its number alone, so that neither resuming nor an executor
    changes a number.

    Arguments:
        measure: What is done with a piece; for an executor a function of a module, or a `partial`
            of one.
        problem: All rows.
        size: Rows of a piece.
        seed: Seed of the first piece.
        checkpoint: Where finished pieces are kept.
        executor: Where pieces run; None runs them here, one after the other.
        num_stages: Stages of a piece, for the progress bar; None where their number is not known.
        progress: Show a progress bar on a terminal.

    Returns:
        Name -> `(B, *)`, on the device of the rows.

    Raises:
        ValueError: As `measure`, or if it cannot be sent to the executor's workers.
        ConnectionError: If a worker has ended: naming the rows that are not done.
    """
    starts = range(0, problem.num_rows, size)
    done = {} if checkpoint is None else _by_piece(checkpoint.read(), size)
    pieces: list[Piece] = [
        (number, problem.rows(slice(start, start + size)), seed + SEED_STRIDE * number)
        for number, start in enumerate(starts)
        if number not in done
    ]
    total = None if num_stages is None else num_stages * len(pieces)
    with stages(len(pieces) if executor else total, progress) as stage:
        for number, found in _results(measure, pieces, executor, stage):
            first = number * size
            row = torch.arange(first, first + len(next(iter(found.values()))))
            done[number] = {**{k: v.cpu() for k, v in found.items()}, ROW: row}
            if checkpoint is not None:
                checkpoint.write(_join(done))
    results = _join(done)
    results.pop(ROW)
    device = next(iter(problem.batch.values())).device
    return {k: v.to(device) for k, v in results.items()}


def _results(
    measure: Measure, pieces: Iterable[Piece], executor: Executor | None, stage: Stage
) -> Iterator[tuple[int, TensorDict]]:
    if executor is None:
        for number, rows, seed in pieces:
            yield number, measure(rows, seed, stage)
        return
    stage("measuring")
    for number, found in run_on(executor, partial(_measure_quietly, measure), pieces):
        yield number, found
        stage("measuring")


def _measure_quietly(measure: Measure, rows: Problem, seed: int) -> TensorDict:
    return measure(rows, seed, lambda name: None)


def _by_piece(results: TensorDict, size: int) -> dict[int, TensorDict]:
    """Results of a file by the number of their piece."""
    if not results:
        return {}
    number = results[ROW] // size
    return {
        int(n): {k: v[number == n] for k, v in results.items()} for n in number.unique().tolist()
    }


def _join(pieces: dict[int, TensorDict]) -> TensorDict:
    """Results of pieces as one, in the order of the rows."""
    ordered = [pieces[number] for number in sorted(pieces)]
    return {name: torch.cat([piece[name] for piece in ordered]) for name in ordered[0]}


def in_precision(
    precision: str, story: nn.Module, guide: nn.Module | None
) -> tuple[nn.Module, nn.Module | None]:
    """Story and guide in another precision, copied together, since they may share modules; `auto`
    leaves them.

    Raises:
        ValueError: If the guide is unamortized, whose rows are not copied.
    """
    if precision == "auto":
        return story, guide
    if is_unamortized(guide):
        raise ValueError(
            f"expected an amortized guide to compute in {precision}, got one with parameters for "
            "each row; make it from a story, a guide and rows of that precision"
        )
    dtype = getattr(torch, precision)
    story, guide = deepcopy((story, guide))
    return story.to(dtype), None if guide is None else guide.to(dtype)
