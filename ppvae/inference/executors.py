r"""Pieces of rows on the workers of any `concurrent.futures.Executor`: processes of one machine, a
Dask or Slurm cluster.
"""

__all__ = ["run_on"]

import hashlib
import pickle
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import torch
from safetensors.torch import load, save

from ppvae.data.chunks import is_unamortized
from ppvae.problem import Problem
from ppvae.story import TensorDict

# Rows of a piece and its seed to the results of its rows, name -> `(B, *)`.
MeasurePiece = Callable[[Problem, int], TensorDict]
Piece = tuple[int, Problem, int]  # its number, its rows, its seed

POLL_SECONDS = 1.0
_LOCK = threading.Lock()  # seeds and Pyro's handlers belong to a whole process: one piece at a time
_LAST_JOB: dict[str, "_Job"] = {}


@dataclass(frozen=True)
class _Job:
    """What every piece of a measurement needs, and what makes a worker's numbers those of the
    caller.

    Arguments:
        problem: Story and guide, on a few of the rows.
        measure: What is done with a piece.
        num_threads: Torch's threads of the caller; another number would round otherwise.
        dtype: The caller's default precision.
    """

    problem: Problem
    measure: MeasurePiece
    num_threads: int
    dtype: torch.dtype


def run_on(
    executor: Executor, measure: MeasurePiece, pieces: Iterable[Piece]
) -> Iterator[tuple[int, TensorDict]]:
    """Measure pieces on an executor's workers; the numbers are, bit for bit, those of the calling
    process.

    A worker needs `ppvae` and what is installed beside it; classes from notebooks, scripts and
    other files of the user's own travel with the story.

    Arguments:
        executor: Where to run.
        measure: What is done with a piece; it can be pickled.
        pieces: The pieces.

    Returns:
        The number of each piece with its results, in the order in which they are done.

    Raises:
        ValueError: If story, guide or `measure` cannot be pickled, or as `measure` does.
        ConnectionError: If a worker has ended: naming the rows that are not done.
    """
    pieces = list(pieces)
    if not pieces:
        return
    job = _pickle_job(measure, pieces[0][1])
    digest = hashlib.sha256(job).hexdigest()
    running: dict[Future[tuple[bytes, bool]], tuple[int, Problem]] = {}
    try:
        for number, rows, seed in pieces:
            values = pickle.dumps({k: v.cpu() for k, v in rows.batch.items()})
            future = executor.submit(_run_piece, job, digest, values, rows.first_row, seed)
            running[future] = number, rows
        while running:
            for future in sorted(_wait(running), key=_has_failed):
                error = future.exception()
                if error is not None:
                    raise _lost_worker(error, [rows for _, rows in running.values()]) from error
                result, is_error = future.result()
                if is_error:
                    raise pickle.loads(result)
                number, _ = running.pop(future)
                yield number, load(result)
    finally:
        for future in running:
            future.cancel()


def _wait(running: Iterable[Any]) -> list[Any]:
    """Futures that are done, at least one; jobs that are no `Future`, as submitit's, are polled."""
    if all(isinstance(future, Future) for future in running):
        return list(wait(running, return_when=FIRST_COMPLETED).done)
    while not (done := [job for job in running if job.done()]):
        time.sleep(POLL_SECONDS)
    return done


def _has_failed(future: Future[tuple[bytes, bool]]) -> bool:
    """Failures come last, so that nothing that is done is lost."""
    return future.exception() is not None or future.result()[1]


def _lost_worker(error: BaseException, problems: list[Problem]) -> ConnectionError:
    ranges = [f"{p.first_row} to {p.first_row + p.num_rows - 1}" for p in problems]
    return ConnectionError(
        f"expected results of all pieces from the executor, got {type(error).__name__}: {error}; "
        f"rows {', '.join(ranges)} are not done; call again with a new executor, and with "
        "checkpoint=... to keep what is done"
    )


def _pickle_job(measure: MeasurePiece, rows: Problem) -> bytes:
    """The job without the rows, which travel with each piece."""
    few = rows.batch if is_unamortized(rows.guide) else {k: v[:1] for k, v in rows.batch.items()}
    problem = replace(rows, batch=few, guide_sites={})
    job = _Job(problem, measure, torch.get_num_threads(), torch.get_default_dtype())
    own = [module for module in list(sys.modules.values()) if _is_users_own(module)]
    new = [m for m in own if m.__name__ not in cloudpickle.list_registry_pickle_by_value()]
    for module in new:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(job)
    except Exception as error:  # whatever an object says that cannot be pickled
        raise ValueError(
            "expected a story and a guide that can be pickled for executor=..., got "
            f"{type(error).__name__}: {error}; let them hold no open files, locks, generators or "
            "connections, or leave executor out"
        ) from error
    finally:
        for module in new:
            cloudpickle.unregister_pickle_by_value(module)


def _is_users_own(module: Any) -> bool:
    """Whether a module is a file that a worker cannot be expected to have: not installed, and not
    of `ppvae`.
    """
    file, name = getattr(module, "__file__", None), getattr(module, "__name__", "")
    if not file or name == "__main__" or sys.modules.get(name) is not module:
        return False  # cloudpickle itself sends what a notebook or script defines
    installed = [sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib")]
    return name.partition(".")[0] != "ppvae" and not file.startswith(tuple(installed))


def _run_piece(
    job: bytes, digest: str, values: bytes, first_row: int, seed: int
) -> tuple[bytes, bool]:
    """In a worker: the results of a piece, or the error that measuring it raised, and which of the
    two it is.
    """
    with _LOCK:
        if digest not in _LAST_JOB:
            _LAST_JOB.clear()
            _LAST_JOB[digest] = pickle.loads(job)
        task = _LAST_JOB[digest]
        num_threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
        torch.set_num_threads(task.num_threads)
        torch.set_default_dtype(task.dtype)
        try:
            like = next(iter(task.problem.batch.values()))
            batch = {k: v.to(like.device) for k, v in pickle.loads(values).items()}
            found = task.measure(task.problem.on(batch, first_row), seed)
            return save({k: v.cpu().contiguous() for k, v in found.items()}), False
        except Exception as error:  # sent back; what an executor itself raises means a lost worker
            return _pickle_error(error), True
        finally:
            torch.set_num_threads(num_threads)
            torch.set_default_dtype(dtype)


def _pickle_error(error: Exception) -> bytes:
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
        return pickled
    except Exception:  # such as one whose arguments a copy does not take
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
