r"""A user's own file → rows of the split that was asked for. Nothing here unpickles."""

__all__ = ["READERS", "read_file", "read_npz"]

import csv
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .columns import is_number, table_values
from .convert import as_rows
from .reading import NPY, check_unpacked_size, read_npy_header, reading
from .rows import Rows
from .splits import FILE_HELD_OUT, PARTS, split_indices


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
    if path.suffix.lower() not in READERS:
        raise ValueError(f"expected a file ending in {', '.join(READERS)}, got {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"expected rows of data in {path}, which is empty")
    columns = READERS[path.suffix.lower()](path)
    keys = {key: _split_key(key) for key in columns}
    unsplit = [key for key, (_, part) in keys.items() if not part]
    if len(unsplit) == len(keys):
        rows = _rows(columns, path)
        if split == "all":
            return [("all", dict(rows.tensors))]
        index = split_indices(len(rows), PARTS["all"], FILE_HELD_OUT, shuffled=True)
        chosen = [(part, rows.subset(torch.from_numpy(index[part]))) for part in PARTS[split]]
    elif unsplit:
        raise ValueError(
            f"expected a split (train, valid, test) in every key of {path} or in none, got "
            f"{unsplit} without"
        )
    else:
        held = {part for _, part in keys.values()}
        wanted = [part for part in PARTS[split] if part in held or split != "all"]
        if not held.issuperset(wanted):
            missing = min(set(wanted) - held)
            raise ValueError(
                f"expected keys of the split '{missing}' in {path}, got only {list(columns)}"
            )
        chosen = []
        for wanted_part in wanted:
            own = {name: columns[k] for k, (name, part) in keys.items() if part == wanted_part}
            chosen.append((wanted_part, _rows(own, path)))
    return [(part, dict(rows.tensors)) for part, rows in chosen]


def _split_key(key: str) -> tuple[str, str]:
    r"""'x_train' → ('x', 'train'), 'train' → ('x', 'train'), 'x' → ('x', '')."""
    name, _, part = key.rpartition("_")
    return (name or "x", part) if part in PARTS["all"] else (key, "")


def _rows(columns: Mapping[str, Any], path: Path) -> Rows:
    try:
        return as_rows(columns, name=path.stem)
    except ValueError as error:
        raise ValueError(f"{error} (in {path})") from error


def _read_npy(path: Path) -> dict[str, Any]:
    with reading(NPY, path):
        with path.open("rb") as stream:
            read_npy_header(stream, path.stat().st_size)
        return {"x": np.load(path, allow_pickle=False)}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    r"""The arrays in one `.npz` file by key; ValueError when damaged or holding other things.

    Nothing is unpacked before its own header and the archive's agree on its size.
    """
    with reading("a zip archive of arrays of numbers, without pickled objects,", path):
        with zipfile.ZipFile(path) as archive:
            check_unpacked_size(sum(member.file_size for member in archive.infolist()), path)
            for member in archive.infolist():
                with archive.open(member) as stream:
                    read_npy_header(stream, member.file_size)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)


def _read_csv(path: Path, separator: str) -> dict[str, Any]:
    r"""Numeric columns under a header, stacked as x (N, columns); empty or 'nan' is missing."""
    with reading("a table of text in UTF-8", path):
        import pandas

        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream, delimiter=separator)
            header = next(lines)
            for row in lines:
                if len(row) != len(header):  # pandas would fill or drop cells
                    raise ValueError(
                        f"{len(header)} cells in the header, {len(row)} in line {lines.line_num}"
                    )
        if all(map(is_number, header)):
            raise ValueError("a first line without the names of the columns: add a header")
        frame = pandas.read_csv(path, sep=separator, encoding="utf-8-sig", low_memory=False)
    return _table(frame, path, "line", 2)


def _read_parquet(path: Path) -> dict[str, Any]:
    with reading("a table in Parquet's format", path):
        from pyarrow import parquet

        stored = parquet.read_metadata(path)
        # Columns that repeat a number are small in a file, however many rows they have.
        check_unpacked_size(8 * stored.num_rows * stored.num_columns, path)
        frame = parquet.read_table(path).to_pandas()
    return _table(frame, path)


def _table(frame: Any, path: Path, unit: str = "row", first: int = 0) -> dict[str, Any]:
    values = torch.from_numpy(table_values(frame, str(path), unit, first).copy())
    return {"x": values.to(torch.get_default_dtype())}


def _read_pt(path: Path) -> dict[str, Any]:
    with reading("a tensor or a dict of tensors by name, and nothing else,", path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > path.stat().st_size:  # torch stores tensors as they are
                raise ValueError(f"an archive that unpacks to {unpacked} bytes, more than its size")
        content = torch.load(path, map_location="cpu", weights_only=True)
        columns = content if isinstance(content, dict) else {"x": content}
        for key, value in columns.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise ValueError(f"{type(value).__name__} at {key!r}")
            # A tensor may have no numbers, or be a view that repeats a few stored ones for ever.
            is_dense = value.layout is torch.strided and value.device.type == "cpu"
            if not is_dense or value.nbytes > value.untyped_storage().nbytes():
                raise ValueError(
                    f"no dense stored tensor at {key!r}: save a clone() of an expanded one"
                )
        return columns


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npy": _read_npy,
    ".npz": read_npz,
    ".csv": partial(_read_csv, separator=","),
    ".tsv": partial(_read_csv, separator="\t"),
    ".parquet": _read_parquet,
    ".pt": _read_pt,
}
