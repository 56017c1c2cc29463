r"""Data as training takes them: rows in memory, or a stream where they are not to be read whole."""

__all__ = ["open_rows", "preview"]

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from .collect import as_rows
from .loader import LoaderRows
from .mapped import MappedRows
from .rows import Rows
from .stream import Stream


def open_rows(data: Any) -> Rows | Stream:
    r"""Data for training: a `DataLoader` and memory-mapped arrays become streams, all else rows in memory.

    Arguments:
        data: `Rows` or a `Stream` (returned as they are), a `DataLoader`, an `np.memmap` `(N, *event)` or a dict of arrays one
            of which is mapped, or anything else that `as_rows` takes.

    Raises:
        ValueError: as `as_rows`.
    """
    if isinstance(data, Stream):
        return data
    if isinstance(data, DataLoader):
        return LoaderRows(data)
    columns = data if isinstance(data, Mapping) else {"x": data}
    if any(isinstance(column, np.memmap) for column in columns.values()):
        return MappedRows({key: np.asanyarray(column) for key, column in columns.items()})
    return as_rows(data)


def preview(data: Any) -> Rows:
    r"""The rows that are looked at before training: all that are in memory, the first 2,000 of a stream (`Stream.first`).

    Arguments:
        data: as in `open_rows`.
    """
    rows = open_rows(data)
    return rows.first if isinstance(rows, Stream) else rows
