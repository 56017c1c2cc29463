r"""Rows on disk: memory-mapped arrays, and `.npy` files, read batch by batch."""

__all__ = ["MappedRows", "mapped", "open_npy"]

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from .columns import to_tensors
from .reading import reading
from .rows import Rows, permutation
from .splits import FILE_HELD_OUT, PARTS, check_split, split_indices
from .stream import Stream

ROWS_PER_MAPPING = 100


@dataclass(frozen=True, eq=False, repr=False)
class MappedRows(Stream):
    r"""Rows of arrays that stay on disk: a batch is read and converted when it is taken.

    Batches, their order and their redrawn bits are those of the same rows in memory.

    Arguments:
        columns: name of a site or covariate → array `(N, *event)` of real numbers, such as an
            `np.memmap`, or the path of a `.npy` file. The file is mapped anew for each batch, so
            that its pages do not stay in the process's memory.
        index: numbers of the rows that belong, in order, `(n,)`; None for all.
        dynamic: names whose values are probabilities, redrawn as 0/1 each time a batch is taken.
        name, device, dtype: as in `Stream`.

    Raises:
        ValueError: no array or no row, unequal numbers of rows, or anything but real numbers.
    """

    columns: Mapping[str, np.ndarray | Path]
    index: np.ndarray | None = None
    dynamic: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        counts = {key: (*_opened(column).shape, 0)[0] for key, column in self.columns.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(
                f"expected arrays (N, *event) with N ≥ 1 the same at every name, got N = {counts}"
            )
        self.head(1)

    @cached_property
    def row_numbers(self) -> np.ndarray:
        r"""Numbers of the rows in the arrays, `(N,)`."""
        if self.index is not None:
            return self.index
        return np.arange(len(_opened(next(iter(self.columns.values())))))

    def __len__(self) -> int:
        return len(self.row_numbers)

    def read(self, size: int, generator: torch.Generator | None, shuffle: bool) -> Iterator[Rows]:
        order = np.arange(len(self))
        if shuffle:
            order = permutation(len(self), generator, torch.device("cpu")).numpy()
        for start in range(0, len(self), size):
            rows = self.row_numbers[order[start : start + size]]
            taken = {key: _take(column, rows) for key, column in self.columns.items()}
            yield Rows(to_tensors(taken), self.dynamic, self.name)


def _opened(column: np.ndarray | Path) -> np.ndarray:
    return open_npy(column) if isinstance(column, Path) else column


def _take(column: np.ndarray | Path, rows: np.ndarray) -> np.ndarray:
    # Pages that a mapping has touched count as the process's memory until it ends.
    pieces = np.split(rows, range(ROWS_PER_MAPPING, len(rows), ROWS_PER_MAPPING))
    return np.concatenate([_opened(column)[piece] for piece in pieces])


def mapped(
    path: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    *,
    split: str = "train",
    binarize: Literal["dynamic", "none"] = "none",
) -> MappedRows:
    r"""One split of `.npy` files that need not fit in memory, with the rows that `load` gives.

    Numbers of any real type are converted batch by batch. In memory stay 8 bytes a row for the
    split, and 8 for the order of an epoch.

    Arguments:
        path: of the file, whose array is the site `x`; or name → path, for several files.
        split: as in `load`.
        binarize: `none`, or `dynamic`: values of `x` are probabilities, redrawn in every batch.

    Returns:
        The rows. `fit` and `compare` read them batch by batch; all else that takes rows reads them
        whole: give it `.head(n)`.

    Raises:
        ValueError: a file that is not a `.npy` file, is damaged or holds pickled objects, or an
            unknown option.
    """
    check_split(split)
    if binarize not in ("dynamic", "none"):
        raise ValueError(
            "expected binarize dynamic or none for rows that are read as needed, got "
            f"{binarize!r}: write the bits to a file"
        )
    paths = path if isinstance(path, Mapping) else {"x": path}
    columns = {key: Path(one).expanduser() for key, one in paths.items()}
    dynamic = frozenset({"x"} if binarize == "dynamic" else ())
    name = Path(next(iter(paths.values()), "data")).stem
    whole = MappedRows(columns, dynamic=dynamic, name=name)
    if split == "all":
        return whole
    index = split_indices(len(whole), PARTS["all"], FILE_HELD_OUT, shuffled=True)
    chosen = np.concatenate([index[part] for part in PARTS[split]])
    return MappedRows(columns, chosen, dynamic, name=name)


def open_npy(path: Path) -> np.memmap:
    r"""The array in a `.npy` file, mapped; ValueError when damaged or holding pickled objects."""
    with reading("one array of numbers as np.save writes it, without pickled objects,", path):
        array = np.lib.format.open_memmap(path, mode="r")
        if array.offset + array.nbytes != path.stat().st_size:
            raise ValueError(f"{path.stat().st_size} bytes, which do not hold shape {array.shape}")
        return array
