r"""Rows on disk: memory-mapped arrays, and `.npy` files, read batch by batch."""

__all__ = ["MappedRows", "mapped"]

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from .columns import to_tensors
from .reading import NpyFile
from .rows import Rows, permutation
from .splits import FILE_HELD_OUT, PARTS, check_split, split_indices
from .stream import Stream


@dataclass(frozen=True, eq=False, repr=False)
class MappedRows(Stream):
    r"""Rows of arrays that stay on disk: a batch is read and converted when it is taken.

    Batches, their order and their redrawn bits are those of the same rows in memory.

    Arguments:
        columns: name of a site or covariate → array `(N, *event)` of real numbers, such as an
            `np.memmap` or an `NpyFile`.
        index: numbers of the rows that belong, in order, `(n,)`; None for all.
        dynamic: names whose values are probabilities, redrawn as 0/1 each time a batch is taken.
        name, device, dtype: as in `Stream`.

    Raises:
        ValueError: no array or no row, unequal numbers of rows, or anything but real numbers.
    """

    columns: Mapping[str, np.ndarray | NpyFile]
    index: np.ndarray | None = None
    dynamic: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        counts = {key: (*column.shape, 0)[0] for key, column in self.columns.items()}
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
        return np.arange(next(iter(self.columns.values())).shape[0])

    def __len__(self) -> int:
        return len(self.row_numbers)

    def read(self, size: int, generator: torch.Generator | None, shuffle: bool) -> Iterator[Rows]:
        order = np.arange(len(self))
        if shuffle:
            order = permutation(len(self), generator, torch.device("cpu")).numpy()
        for start in range(0, len(self), size):
            rows = self.row_numbers[order[start : start + size]]
            taken = {key: column[rows] for key, column in self.columns.items()}
            yield Rows(to_tensors(taken), self.dynamic, self.name)


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
    columns = {key: NpyFile(Path(one).expanduser()) for key, one in paths.items()}
    dynamic = frozenset({"x"} if binarize == "dynamic" else ())
    name = Path(next(iter(paths.values()), "data")).stem
    whole = MappedRows(columns, dynamic=dynamic, name=name)
    if split == "all":
        return whole
    index = split_indices(len(whole), PARTS["all"], FILE_HELD_OUT, shuffled=True)
    chosen = np.concatenate([index[part] for part in PARTS[split]])
    return MappedRows(columns, chosen, dynamic, name=name)
