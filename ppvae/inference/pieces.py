r"""Long measurements piece by piece: seeds of their own, a file that remembers finished pieces, q* on each."""

__all__ = [
    "in_precision",
    "kept_rows",
    "over_rows",
    "rows_at_a_time",
    "sibling_path",
]

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ppvae.data.chunks import CHUNK_NUMBERS, is_unamortized, numbers_per_row
from ppvae.storage.fingerprint import fingerprint
from ppvae.storage.results import ResultsFile
from ppvae.story import TensorDict, num_rows_of

# Rows whose q* and chains are held in memory at a time, at most.
ROWS_AT_A_TIME = 250
SEEDS_APART = 1009

# Rows, number of the first one, seed -> results of these rows by name, each `(B, *)`.
Measure = Callable[[TensorDict, int, int | None], TensorDict]


def kept_rows(
    file: Path | str | None,
    settings: dict[str, Any],
    story: nn.Module,
    guide: nn.Module | None,
    batch: TensorDict,
) -> ResultsFile | None:
    """The checkpoint of a measurement of these rows with these settings; None for no file."""
    if file is None:
        return None
    return ResultsFile(file, {**settings, "of": fingerprint(story, guide, batch)})


def sibling_path(file: Path | str | None, name: str) -> Path | None:
    """A second file of a measurement beside its first, for what has other rows; None for no file."""
    return None if file is None else Path(file).with_suffix(f".{name}{Path(file).suffix}")


def over_rows(
    batch: TensorDict,
    measure: Measure,
    step: int,
    *,
    seed: int | None,
    checkpoint: ResultsFile | None = None,
) -> TensorDict:
    """Measure rows piece by piece; each piece has a seed of its own, so that resuming changes no number.

    Arguments:
        batch: Rows, name -> `(B, *event)`.
        measure: What is done with a piece.
        step: Rows of a piece.
        seed: Seed of the first piece; None uses the global generator.
        checkpoint: Where finished pieces are kept.

    Returns:
        Name -> `(B, *)`.
    """

    def piece(start: int) -> TensorDict:
        rows = {k: v[start : start + step] for k, v in batch.items()}
        own_seed = None if seed is None else seed + SEEDS_APART * (start // step)
        return {k: v.cpu() for k, v in measure(rows, start, own_seed).items()}

    done = {} if checkpoint is None else checkpoint.read()
    first = len(next(iter(done.values()))) if done else 0
    for start in range(first, num_rows_of(batch), step):
        found = piece(start)
        done = {k: torch.cat([done[k], v]) if done else v for k, v in found.items()}
        if checkpoint is not None:
            checkpoint.write(done)
    like = next(iter(batch.values()))
    return {k: v.to(like.device) for k, v in done.items()}


def rows_at_a_time(batch: TensorDict, guide: nn.Module | None, numbers: int = 0) -> int:
    """Rows of a piece: few enough for memory, and all of them for a local guide, which cannot be cut.

    Arguments:
        batch: The rows.
        guide: The guide as it was given.
        numbers: Numbers that a row takes while it is measured, in all its chains or nodes.
    """
    if is_unamortized(guide):
        return num_rows_of(batch)
    per_row = max(numbers, numbers_per_row(batch))
    return max(1, min(ROWS_AT_A_TIME, CHUNK_NUMBERS // per_row, num_rows_of(batch)))


def in_precision(
    precision: str, story: nn.Module, guide: nn.Module | None
) -> tuple[nn.Module, nn.Module | None]:
    """Story and guide in another precision, copied together, since they may share modules; `auto` leaves them.

    Raises:
        ValueError: If the precision is unknown, or the guide is local, whose rows are not copied.
    """
    kinds = {"auto": None, "float32": torch.float32, "float64": torch.float64}
    if precision not in kinds:
        raise ValueError(f"expected a precision among {', '.join(kinds)}; got '{precision}'")
    dtype = kinds[precision]
    if dtype is None:
        return story, guide
    if getattr(guide, "is_unamortized", False):
        raise ValueError(
            f"expected an amortized guide to compute in {precision}, got a local one; make it from a story, a guide and "
            "rows of that precision"
        )
    story, guide = deepcopy((story, guide))
    return story.to(dtype), None if guide is None else guide.to(dtype)
