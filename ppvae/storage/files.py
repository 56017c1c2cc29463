r"""Files that are written as a whole or not at all."""

__all__ = ["READABLE", "UNFINISHED", "sync", "to_json", "write_bytes", "write_state"]

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

UNFINISHED = ".writing-"  # how the names of files begin that a kill may leave half written
READABLE = 0o644  # by colleagues too: temporary files are not
PLAIN = (bool, int, float, str, type(None))  # exactly these: a NumPy number is not plain


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file as a whole: readers see the old one or the new one."""
    handle, written = tempfile.mkstemp(prefix=UNFINISHED, dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(written, READABLE)
        os.replace(written, file)
    except BaseException:
        Path(written).unlink(missing_ok=True)
        raise


def write_state(file: Path, state: Mapping[str, Any]) -> None:
    """Write what `torch.load(..., weights_only=True)` reads; it is on disk when this returns.

    Raises:
        ValueError: If the state holds anything but tensors, numbers, strings, None, and dicts,
            lists and tuples of them, naming its place.
    """
    _check_plain(dict(state), "state")
    with file.open("wb") as stream:
        torch.save(dict(state), stream)
        stream.flush()
        os.fsync(stream.fileno())


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to disk, where the system offers that."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_json(value: Mapping[str, Any], indent: int | None = 2) -> str:
    """A record as JSON.

    Raises:
        ValueError: If JSON does not hold it.
    """
    try:
        return json.dumps(value, indent=indent)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected settings and metrics that JSON holds, got: {error}") from error


def _check_plain(value: Any, place: str) -> None:
    if isinstance(value, Mapping):
        for key, part in value.items():
            _check_plain(part, f"{place}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, part in enumerate(value):
            _check_plain(part, f"{place}[{index}]")
    elif type(value) not in PLAIN and not isinstance(value, Tensor):
        raise ValueError(
            f"expected tensors, numbers, strings and plain containers, got {type(value).__name__} "
            f"at {place}"
        )
