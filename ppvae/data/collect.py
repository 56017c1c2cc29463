r"""Whatever holds rows → `Rows`: arrays, dicts of arrays, torch data sets and loaders."""

__all__ = ["as_rows", "concatenated", "named", "tensors_of"]

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from .rows import Rows
from .stream import Stream

CHUNK = 512  # items collated at a time: bounds the Python objects alive at once
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_rows(data: Any, *, name: str = "data") -> Rows:
    r"""Turns anything that holds rows into `Rows`, so that the rest of the library knows one type.

    A bare tensor or array means the site named `x`. Items or batches of a `Dataset` or `DataLoader`
    are a tensor (`x`), a pair (`x`, `y`) or a dict. Floating types are kept; integers, bools and
    Python numbers take torch's default dtype. Tensors are detached; memory is shared where nothing
    has to be converted. A loader must give batches, whose types its
    own collating chose (float64 for Python floats); it is read once, in its own order. A streamed
    data set is read until it ends.

    Arguments:
        data: `Rows` (returned as they are), a `Stream` (read whole), a tensor or array `(N, *event)`, a dict of these by
            name, a torch `Dataset`, or a `DataLoader`.
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
        columns: dict[str, Any] = named(data.tensors)
    elif isinstance(data, DataLoader):
        columns = concatenated(tensors_of(named(batch)) for batch in data)
    elif isinstance(data, Dataset):
        columns = concatenated(tensors_of(chunk) for chunk in _chunks(data))
    elif isinstance(data, tuple):
        raise ValueError(
            f"expected a tensor, an array or a dict of them, got a tuple of {len(data)}: name the "
            "parts with a dict"
        )
    else:
        columns = named(data if isinstance(data, Mapping) else {"x": data})
    return Rows(tensors_of(columns), name=name)


def concatenated(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    r"""Joins parts along their rows.

    Arguments:
        parts: each name → tensor `(n, *event)`, all with the same names and event shapes.

    Returns:
        name → tensor `(sum of n, *event)`.

    Raises:
        ValueError: no part, names that differ between parts, or event shapes that differ.
    """
    columns: dict[str, list[Tensor]] = {}
    for number, part in enumerate(parts):
        if number == 0:
            columns = {name: [] for name in part}
        elif set(part) != set(columns):
            raise ValueError(
                f"expected the names {list(columns)} in every part of the data, got {list(part)} "
                f"in part {number + 1}"
            )
        for name, tensor in part.items():
            columns[name].append(tensor)
    if not columns:
        raise ValueError("expected at least one row, got an empty data set")
    return {name: _joined(name, tensors) for name, tensors in columns.items()}


def _joined(name: str, tensors: list[Tensor]) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]
    shapes = sorted({tuple(tensor.shape[1:]) for tensor in tensors})
    if len(shapes) > 1:
        raise ValueError(f"expected rows of one shape at '{name}', got {shapes[0]} and {shapes[1]}")
    return torch.cat(tensors)


def named(item: Any) -> dict[str, Any]:
    r"""One item or one batch by name; a pair is (x, y), as torch's own data sets give it."""
    if isinstance(item, Mapping):
        for key in item:
            if not isinstance(key, str) or not key:
                raise ValueError(f"expected keys that are non-empty strings, got {key!r}")
        return dict(item)
    if not isinstance(item, (tuple, list)):
        return {"x": item}
    if not 1 <= len(item) <= 2:
        raise ValueError(
            f"expected an item (x,) or (x, y), got {len(item)} parts: name them with a dict"
        )
    return dict(zip(("x", "y"), item, strict=False))


def _chunks(dataset: Dataset[Any]) -> Iterator[dict[str, Any]]:
    items = iter(dataset) if isinstance(dataset, IterableDataset) else _items(dataset)
    while chunk := [named(item) for item in islice(items, CHUNK)]:
        names = list(chunk[0])
        for item in chunk:
            if set(item) != set(names):
                raise ValueError(f"expected the names {names} in every item, got {list(item)}")
        yield {name: _collated(name, [item[name] for item in chunk]) for name in names}


def _items(dataset: Any) -> Iterator[Any]:
    for index in range(len(dataset)):
        yield dataset[index]


def _collated(name: str, values: list[Any]) -> Any:
    try:
        column = default_collate(values)
    except (RuntimeError, TypeError) as fault:
        raise ValueError(
            f"expected numbers of one shape in every item at '{name}', got: {fault}"
        ) from fault
    # default_collate makes float64 of Python floats; they take the default dtype here.
    return column.to(torch.get_default_dtype()) if type(values[0]) is float else column


def tensors_of(columns: Mapping[str, Any]) -> dict[str, Tensor]:
    r"""Columns by name as floating tensors `(N, *event)` without infinities; faults as in `as_rows`."""
    return {name: _tensor(name, value) for name, value in columns.items()}


def _tensor(name: str, value: Any) -> Tensor:
    r"""A floating tensor (N, *event) without infinities from one column."""
    raw = value.detach() if isinstance(value, Tensor) else _from_array(name, value)
    if raw.layout is not torch.strided or raw.is_quantized or raw.is_complex():
        raise ValueError(f"expected dense real numbers at '{name}', got {raw.layout} {raw.dtype}")
    tensor = raw if raw.dtype in FLOATS else _from_integers(name, raw)
    if tensor.dim() == 0:
        raise ValueError(
            f"expected rows of shape (N, *event) at '{name}', got a single number of shape ()"
        )
    for piece in tensor.split(4096):  # in pieces: the check must not double the memory
        if bool(piece.isinf().any()):
            raise ValueError(
                f"expected finite numbers, or NaN where missing, at '{name}', got infinity"
            )
    return tensor


def _from_array(name: str, value: Any) -> Tensor:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as fault:
        raise ValueError(
            f"expected an array of numbers at '{name}', got {type(value).__name__}: {fault}"
        ) from fault
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise ValueError(f"expected an array of real numbers at '{name}', got dtype {array.dtype}")
    if isinstance(value, (list, float)) and array.dtype.kind == "f":
        return torch.tensor(array, dtype=torch.get_default_dtype())
    # torch takes neither foreign byte order nor negative strides, and warns about read-only memory.
    array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])
    return torch.from_numpy(array)


def _from_integers(name: str, raw: Tensor) -> Tensor:
    dtype = torch.get_default_dtype()
    if raw.is_floating_point():
        raise ValueError(f"expected 16, 32 or 64 bit floats at '{name}', got {raw.dtype}")
    tensor = raw.to(dtype)
    exact = 2 / torch.finfo(dtype).eps  # below, no integer is rounded
    if tensor.numel() and max(-float(tensor.min()), float(tensor.max())) >= exact:
        raise ValueError(
            f"expected integers below {exact:.0f} in size at '{name}', which {dtype} holds "
            "exactly, got larger ones: convert them to float64 first"
        )
    return tensor
