r"""Columns of any kind as floating tensors: arrays, lists, masked and sparse arrays, frames."""

__all__ = ["concatenate", "is_number", "name_parts", "table_values", "to_tensors"]

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def to_tensors(columns: Mapping[str, Any]) -> dict[str, Tensor]:
    r"""Columns by name as finite floating tensors `(N, *event)`; errors as in `as_rows`."""
    return {name: _to_tensor(name, value) for name, value in columns.items()}


def name_parts(item: Any) -> dict[str, Any]:
    r"""One item or one batch by name; a pair is (x, y), as torch's own data sets give it."""
    if isinstance(item, Mapping):
        return dict(item)
    if not isinstance(item, (tuple, list)):
        return {"x": item}
    if not 1 <= len(item) <= 2:
        raise ValueError(
            f"expected an item (x,) or (x, y), got {len(item)} parts: name them with a dict"
        )
    return dict(zip(("x", "y"), item, strict=False))


def concatenate(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    r"""Joins parts along their rows.

    Arguments:
        parts: each name → tensor `(n, *event)`, all with the same names and event shapes.

    Returns:
        name → tensor `(sum of n, *event)`.

    Raises:
        ValueError: no part, names that differ between parts, or event shapes that differ.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("expected at least one row, got an empty data set")
    for number, part in enumerate(parts, 1):
        if set(part) != set(parts[0]):
            raise ValueError(
                f"expected the names {list(parts[0])} in every part of the data, got {list(part)} "
                f"in part {number}"
            )
    if len(parts) == 1:
        return dict(parts[0])
    for name in parts[0]:
        shapes = sorted({tuple(part[name].shape[1:]) for part in parts})
        if len(shapes) > 1:
            raise ValueError(
                f"expected rows of one shape at '{name}', got {shapes[0]} and {shapes[1]}"
            )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def table_values(frame: Any, source: str, unit: str = "row", first: int = 0) -> np.ndarray:
    r"""The numbers of a data frame, NaN where a cell is missing.

    Arguments:
        frame: a pandas data frame of integers, floats and bools, nullable ones too.
        source: where it comes from, for error messages.
        unit, first: what a row is called in error messages, and the number of the first.

    Returns:
        `(N, columns)`, float64.

    Raises:
        ValueError: a column of text, categories, dates or objects, or an infinite cell; the message
            names column, row and cell.
    """
    for name, column in frame.items():
        if len(column) and getattr(column.dtype, "kind", "O") not in "fiub":
            row = next((i for i, cell in enumerate(column) if not is_number(cell)), 0)
            raise ValueError(
                f"expected numbers in column '{name}' of {source}, got {column.iloc[row]!r} "
                f"({column.dtype}) in {unit} {first + row}: replace text and categories by codes "
                "or by pandas.get_dummies, dates by numbers, or drop the column; empty is missing"
            )
    values: np.ndarray = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    infinite = np.argwhere(np.isinf(values))
    if len(infinite):
        row, column = infinite[0]
        raise ValueError(
            f"expected finite numbers in column '{frame.columns[column]}' of {source}, got "
            f"{values[row, column]} in {unit} {first + row}: empty is missing"
        )
    return values


def is_number(cell: Any) -> bool:
    r"""Whether a cell of a table is a number, or reads as one."""
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def _to_tensor(name: str, value: Any) -> Tensor:
    tensor = value.detach() if isinstance(value, Tensor) else _from_array(name, value)
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
        raise ValueError(
            f"expected dense real numbers at '{name}', got {tensor.layout} {tensor.dtype}"
        )
    if tensor.dtype not in FLOATS:
        tensor = _from_integers(name, tensor)
    for piece in torch.atleast_1d(tensor).split(4096):  # the check must not double the memory
        if bool(piece.isinf().any()):
            raise ValueError(
                f"expected finite numbers, or NaN where missing, at '{name}', got infinity"
            )
    return tensor


def _from_array(name: str, value: Any) -> Tensor:
    value = _from_container(name, value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"expected an array of numbers at '{name}', got {type(value).__name__}: {error}"
        ) from error
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise ValueError(
            f"expected an array of real numbers at '{name}', got dtype {array.dtype}: replace text "
            "and categories by codes, dates by numbers, None by NaN"
        )
    if isinstance(value, (list, float)) and array.dtype.kind == "f":
        return torch.tensor(array, dtype=torch.get_default_dtype())
    # torch takes neither foreign byte order nor negative strides, and warns about read-only memory.
    array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])
    return torch.from_numpy(array)


def _from_container(name: str, value: Any) -> Any:
    r"""Data frames, masked and sparse arrays as arrays; anything else as it is."""
    if hasattr(value, "to_pandas") and hasattr(value, "columns"):  # polars, pyarrow
        value = value.to_pandas()
    if hasattr(value, "iloc"):  # pandas
        if hasattr(value, "columns"):
            return table_values(value, f"the data at '{name}'")
        return table_values(value.to_frame(name), "the data")[:, 0]
    if isinstance(value, np.ma.MaskedArray) and value.dtype.kind in "fiub":
        return np.ma.filled(value.astype(np.result_type(value, np.float32)), np.nan)
    return value.toarray() if hasattr(value, "toarray") else value  # SciPy's sparse arrays


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
