r"""Rows on disk: memory-mapped arrays, and `.npy` files, read batch by batch."""

__all__ = ["MappedRows", "mapped"]

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from .arrays import NpyFile
from .collect import tensors_of
from .files import HELD_OUT
from .rows import Rows, permutation
from .splits import PARTS, check_split, cut
from .stream import Stream

CPU = torch.device("cpu")


class Column(Protocol):
    r"""What a NumPy array is as far as rows are taken from it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, index: np.ndarray | slice, /) -> np.ndarray: ...


@dataclass(frozen=True, eq=False, repr=False)
class MappedRows(Stream):
    r"""Rows of arrays that stay on disk: a batch is read, and its numbers converted, when it is taken.

    Batches, their order and their redrawn bits are those of the same rows in memory.

    Arguments:
        columns: name of a site or covariate → array `(N, *event)` of real numbers, such as an `np.memmap`.
        index: numbers of the rows that belong, in order, `(n,)`; None for all.
        dynamic: names whose values are probabilities, redrawn as 0/1 each time a batch is taken.
        name, device, dtype: as in `Stream`.

    Raises:
        ValueError: no array or no row, unequal numbers of rows, or an array of anything but real numbers.
    """

    columns: Mapping[str, Column]
    index: np.ndarray | None = None
    dynamic: frozenset[str] = frozenset()
    name: str = "data"
    device: torch.device = CPU
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        for key, column in self.columns.items():
            if column.dtype.kind not in "fiub" or column.dtype.itemsize > 8:
                raise ValueError(
                    f"expected an array of real numbers at '{key}', got dtype {column.dtype}"
                )
            if not column.shape or column.shape[0] == 0:
                raise ValueError(
                    f"expected rows of shape (N, *event) at '{key}', got an array of shape {column.shape}"
                )
        counts = {key: column.shape[0] for key, column in self.columns.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"expected the same number of rows at every name, got {counts}")

    def __len__(self) -> int:
        if self.index is not None:
            return len(self.index)
        return next(iter(self.columns.values())).shape[0]

    def pieces(self, size: int, generator: torch.Generator | None, shuffle: bool) -> Iterator[Rows]:
        count = len(self)
        order = permutation(count, generator, CPU).numpy() if shuffle else None
        for start in range(0, count, size):
            piece = slice(start, min(start + size, count))
            index = piece if order is None else order[piece]
            index = index if self.index is None else self.index[index]
            taken = {key: column[index] for key, column in self.columns.items()}
            yield Rows(tensors_of(taken), self.dynamic, self.name)


def mapped(
    path: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    *,
    split: str = "train",
    binarize: Literal["dynamic", "none"] = "none",
) -> MappedRows:
    r"""One split of `.npy` files that need not fit in memory, with the rows that `load` gives of such a file.

    Numbers of any real type are converted batch by batch. In memory stay 8 bytes a row for the split, and 8 for the order
    of an epoch.

    Arguments:
        path: of the file, whose array is the site `x`; or name → path, for several with as many rows.
        split: as in `load`.
        binarize: `none`, or `dynamic`: values of `x` are probabilities, redrawn in every batch.

    Returns:
        The rows. `fit` and `compare` read them batch by batch; all else that takes rows reads them whole: give it
        `.head(n)`.

    Raises:
        ValueError: a file that is no `.npy` file, is damaged, holds pickled objects, or an unknown option.
    """
    check_split(split)
    if binarize not in ("dynamic", "none"):
        raise ValueError(
            f"expected binarize dynamic or none for rows that are read as needed, got {binarize!r}: write the bits to a file"
        )
    paths = path if isinstance(path, Mapping) else {"x": path}
    columns = {key: _opened(Path(one).expanduser()) for key, one in paths.items()}
    if not columns:
        raise ValueError("expected at least one file, got none")
    name = Path(next(iter(paths.values()))).stem
    dynamic = frozenset({"x"} if binarize == "dynamic" else ())
    if dynamic and "x" not in columns:
        raise ValueError(f"expected a file of the site 'x' to binarize, got {list(columns)}")
    whole = MappedRows(columns, None, dynamic, name)
    if split == "all":
        return whole
    index = cut(len(whole), PARTS["all"], HELD_OUT, shuffled=True)
    numbers = np.concatenate([index[part] for part in PARTS[split]])
    return MappedRows(columns, numbers, dynamic, name)


def _opened(path: Path) -> NpyFile:
    if not path.is_file():
        raise ValueError(f"expected a file, got {path}, which is none")
    if path.suffix.lower() != ".npy":
        raise ValueError(
            f"expected a .npy file to read as it is needed, got {path}: write its arrays with np.save, one a file"
        )
    return NpyFile(path)
