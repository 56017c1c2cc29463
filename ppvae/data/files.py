r"""A user's own file → rows of the split that was asked for. Nothing here unpickles."""

__all__ = ["READERS", "read_file"]

import csv
import math
import pickle
import struct
import zipfile
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import check_room, read_npy, read_npz
from .collect import as_rows
from .splits import PARTS, cut

# A file without splits of its own is shuffled and cut into 80 / 10 / 10 per cent.
HELD_OUT = {"valid": 0.1, "test": 0.1}

# pyarrow's errors are of these kinds.
TABLE_FAULTS = (LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)

# What the restricted unpickler raises on damaged bytes as well as on refused content.
PT_FAULTS = (
    pickle.UnpicklingError,
    AttributeError,
    AssertionError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


def read_file(path: Path, split: str) -> list[tuple[str, dict[str, Tensor]]]:
    r"""Reads a file, whose ending names its format, and picks the rows of a split.

    Keys that end in `_train`, `_valid`, `_test`, or are exactly these words (site `x`), carry their
    own split. Otherwise the rows are cut 80/10/10 after a fixed permutation, and the split `all`
    keeps the order of the file.

    Arguments:
        path: of the file.
        split: one of `PARTS`.

    Returns:
        Parts of the split in order, each with its name (train, valid, test or all) and name →
        tensor `(n, *event)`.

    Raises:
        ValueError: no such file, a folder, an empty file, an unknown ending, damaged or pickled
            content, a split that the file does not have.
    """
    if path.is_dir():
        raise ValueError(
            f"expected a file, got the folder {path}: for images use 'image_folder:{path}'"
        )
    if not path.is_file():
        raise ValueError(f"expected a file, got {path}, which does not exist")
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"expected a file ending in {', '.join(READERS)}, got {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"expected rows of data in {path}, which is empty")
    columns = READERS[suffix](path)
    keyed = {key: _split_of(key) for key in columns}
    if not any(keyed.values()):
        return _cut_parts(columns, split, path)
    if not all(keyed.values()):
        plain = [key for key, named in keyed.items() if named is None]
        raise ValueError(
            f"expected a split (train, valid, test) in every key of {path} or in none, got "
            f"{plain} without"
        )
    return [(part, _keyed_part(columns, part, path)) for part in _present(columns, split, path)]


def _split_of(key: str) -> tuple[str, str] | None:
    r"""'x_train' → ('x', 'train'), 'train' → ('x', 'train'), 'x' → None."""
    name, _, part = key.rpartition("_")
    return (name or "x", part) if part in PARTS["all"] else None


def _present(columns: Mapping[str, Any], split: str, path: Path) -> list[str]:
    present = {named[1] for named in map(_split_of, columns) if named}
    if split == "all":
        return [part for part in PARTS["all"] if part in present]
    missing = [part for part in PARTS[split] if part not in present]
    if missing:
        raise ValueError(
            f"expected keys of the split '{missing[0]}' in {path}, got only {list(columns)}"
        )
    return list(PARTS[split])


def _keyed_part(columns: Mapping[str, Any], part: str, path: Path) -> dict[str, Tensor]:
    named = {key: _split_of(key) for key in columns}
    chosen = {found[0]: columns[key] for key, found in named.items() if found and found[1] == part}
    return dict(as_rows(chosen, name=path.stem).tensors)


def _cut_parts(
    columns: Mapping[str, Any], split: str, path: Path
) -> list[tuple[str, dict[str, Tensor]]]:
    rows = as_rows(columns, name=path.stem)
    if split == "all":
        return [("all", dict(rows.tensors))]
    index = cut(len(rows), PARTS["all"], HELD_OUT, shuffled=True)
    return [
        (part, dict(rows.subset(torch.from_numpy(index[part])).tensors)) for part in PARTS[split]
    ]


def _read_npy(path: Path) -> dict[str, Any]:
    return {"x": read_npy(path)}


def _read_csv(path: Path) -> dict[str, Any]:
    r"""Numeric columns under a header, stacked as x (N, columns); empty or 'nan' is missing."""
    cells = array("d")  # eight bytes a cell, where a list of floats takes thirty-two
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream)
            header = next(lines, [])
            _check_header(header, path)
            for row in lines:
                if len(row) != len(header):
                    raise ValueError(
                        f"expected {len(header)} cells as in the header, got {len(row)} "
                        f"in line {lines.line_num} of {path}"
                    )
                for column, cell in zip(header, row, strict=True):
                    cells.append(_number(cell, lines.line_num, column, path))
    except (csv.Error, UnicodeDecodeError) as fault:
        raise ValueError(f"expected a CSV file in UTF-8 at {path}, got: {fault}") from fault
    values = torch.from_numpy(np.array(cells)).to(torch.get_default_dtype())
    return {"x": values.reshape(-1, len(header))}


def _check_header(header: list[str], path: Path) -> None:
    if not header:
        raise ValueError(
            f"expected a first line with the names of the columns in {path}, got a blank one"
        )
    if not all(_is_number(cell) for cell in header):
        return
    raise ValueError(
        f"expected a first line with the names of the columns in {path}, got numbers: "
        "add a header, or the first row would be lost"
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, line: int, column: str, path: Path) -> float:
    try:
        value = float(cell) if cell.strip() else math.nan
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise ValueError(
            f"expected a finite number, or an empty cell where missing, got {cell!r} "
            f"in line {line}, column '{column}' of {path}"
        )
    return value


def _read_parquet(path: Path) -> dict[str, Any]:
    try:
        import pandas

        _check_table(path)
        frame = pandas.read_parquet(path)
    except ImportError as fault:
        raise ValueError(
            f"expected pandas and pyarrow to read {path}, got: {fault}. Install them, or save the "
            "table as .csv or .npz"
        ) from fault
    except TABLE_FAULTS as fault:
        raise ValueError(f"expected a table in Parquet's format at {path}, got: {fault}") from fault
    for column, dtype in frame.dtypes.items():
        if getattr(dtype, "kind", "O") not in "fiub":
            raise ValueError(
                f"expected numeric columns in {path}, got {dtype} in column '{column}'"
            )
    values = torch.from_numpy(frame.to_numpy(dtype=np.float64, na_value=np.nan, copy=True))
    return {"x": values.to(torch.get_default_dtype())}


def _check_table(path: Path) -> None:
    r"""Columns that repeat a number are small in a file, however many rows they have."""
    try:
        from pyarrow import parquet
    except ImportError:
        return  # pandas has another engine, or says that it has none
    told = parquet.read_metadata(path)
    check_room(8 * told.num_rows * told.num_columns, path)


def _read_pt(path: Path) -> dict[str, Any]:
    try:
        _check_packing(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PT_FAULTS as fault:
        raise ValueError(
            f"expected a tensor or a dict of tensors in {path}, got a file that holds something "
            f"else or is damaged: {next(iter(str(fault).splitlines()), type(fault).__name__)}"
        ) from fault
    columns = content if isinstance(content, dict) else {"x": content}
    for key, value in columns.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"expected a tensor or a dict of tensors by name in {path}, got "
                f"{type(value).__name__} at {key!r}"
            )
        _check_stored(key, value, path)
    return columns


def _check_packing(path: Path) -> None:
    r"""torch stores tensors as they are: what would unpack to more than the file was not written by it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if sum(info.file_size for info in members) > path.stat().st_size:
            raise ValueError("an archive that unpacks to more than its size")


def _check_stored(key: str, value: Tensor, path: Path) -> None:
    r"""A tensor may be a view that repeats a few stored numbers for ever."""
    if value.layout is not torch.strided or value.device.type != "cpu":
        raise ValueError(
            f"expected dense tensors on the CPU in {path}, got {value.layout} on {value.device} at {key!r}"
        )
    stored = value.untyped_storage().nbytes() // value.element_size()
    if value.numel() > stored:
        raise ValueError(
            f"expected the {value.numel()} numbers of shape {tuple(value.shape)} at {key!r} in {path}, got {stored} stored "
            "ones: save a clone() of an expanded tensor"
        )


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npy": _read_npy,
    ".npz": read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".pt": _read_pt,
}
