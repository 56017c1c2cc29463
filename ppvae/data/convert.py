r"""Whatever holds rows → `Rows` or a `Stream`: arrays, frames, dicts, torch data sets, loaders."""

__all__ = ["as_rows", "open_rows", "preview"]

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from .columns import concatenate, name_parts, to_tensors
from .loader import LoaderRows
from .mapped import MappedRows
from .rows import Rows
from .stream import Stream

CHUNK = 512  # items collated at a time: bounds the Python objects alive at once


def as_rows(data: Any, *, name: str = "data") -> Rows:
    r"""Turns anything that holds rows into `Rows`, so that the rest of the library knows one type.

    A bare tensor, array or data frame means the site named `x`. Items or batches of a `Dataset` or
    `DataLoader` are a tensor (`x`), a pair (`x`, `y`) or a dict. Floating types are kept; integers,
    bools and Python numbers take torch's default dtype; columns of a frame become float64. Tensors
    are detached; memory is shared where nothing has to be converted. A loader must give batches,
    whose types its own collating chose (float64 for Python floats); it is read once, in its own
    order. A streamed data set is read until it ends.

    Arguments:
        data: `Rows` (returned as they are), a `Stream` (read whole), a tensor or array
            `(N, *event)` (also a masked or sparse one), a data frame `(N, columns)`, a dict of
            these by name, a torch `Dataset`, or a `DataLoader`.
        name: what to call the data in tables and error messages.

    Returns:
        The rows, name → `(N, *event)`; NaN marks a missing value.

    Raises:
        ValueError: no rows, unequal numbers of rows, a single number, keys that are not strings,
            values that are infinite, complex or not numbers, integers that the floating type cannot
            hold, items of other forms.
    """
    if isinstance(data, Rows):
        return data
    if isinstance(data, Stream):
        return data.head(len(data))
    if isinstance(data, TensorDataset):
        columns: dict[str, Any] = name_parts(data.tensors)
    elif isinstance(data, DataLoader):
        columns = concatenate(to_tensors(name_parts(batch)) for batch in data)
    elif isinstance(data, Dataset):
        # The generator keeps the loader from drawing a number of the global one.
        loader = DataLoader(data, CHUNK, collate_fn=_collate, generator=torch.Generator())
        columns = concatenate(map(to_tensors, loader))
    elif isinstance(data, tuple):
        raise ValueError(
            f"expected a tensor, an array or a dict of them, got a tuple of {len(data)}: name the "
            "parts with a dict"
        )
    else:
        columns = name_parts(data if isinstance(data, Mapping) else {"x": data})
    return Rows(to_tensors(columns), name=name)


def open_rows(data: Any) -> Rows | Stream:
    r"""Data for training: a `DataLoader` and mapped arrays become streams, all else `Rows`.

    Arguments:
        data: `Rows` or a `Stream` (returned as they are), a `DataLoader`, an `np.memmap`
            `(N, *event)` or a dict of arrays one of which is mapped, or anything else that
            `as_rows` takes.

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
    r"""All rows that are in memory, or the first 2,000 of a stream (`Stream.preview`).

    Arguments:
        data: as in `open_rows`.
    """
    rows = open_rows(data)
    return rows.preview if isinstance(rows, Stream) else rows


def _collate(items: list[Any]) -> dict[str, Any]:
    r"""Items as one batch by name; Python floats take the default dtype, not float64."""
    parts = [name_parts(item) for item in items]
    for part in parts:
        if set(part) != set(parts[0]):
            raise ValueError(f"expected the names {list(parts[0])} in every item, got {list(part)}")
    batch = {}
    for name, value in parts[0].items():
        try:
            batch[name] = default_collate([part[name] for part in parts])
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"expected numbers of one shape in every item at '{name}', got: {error}"
            ) from error
        if type(value) is float:
            batch[name] = batch[name].to(torch.get_default_dtype())
    return batch
