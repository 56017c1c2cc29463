r"""Whole files: written at once or not at all, and read without running code from them."""

__all__ = [
    "UNFINISHED",
    "check_fits",
    "check_plain",
    "read_metadata",
    "read_tensors",
    "sync_folder",
    "to_json",
    "warn_if_changed",
    "write_bytes",
    "write_state",
    "write_tensors",
]

import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

UNFINISHED = ".writing-"  # how the names of files begin that a kill may leave half written
READABLE = 0o644  # by colleagues too: temporary files are not
SOURCE = "source"  # under which a file of weights keeps the mark of its program
PLAIN = (bool, int, float, str, type(None))  # exactly these: a NumPy number is no plain one


def write_tensors(file: Path, module: nn.Module, source: str = "") -> None:
    """Write a module's parameters and buffers as a safetensors file, with the mark of its `source` if one is given."""
    # cloned, because safetensors refuses tensors that share memory (tied weights, views)
    tensors = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in module.state_dict().items()
    }
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=file.parent) as place:
        written = Path(place) / file.name
        save_file(tensors, written, metadata={SOURCE: source})
        os.chmod(written, READABLE)
        _sync(written)
        os.replace(written, file)


def write_state(file: Path, state: Mapping[str, Any]) -> None:
    """Write what `check_plain` lets pass; it is on disk when this returns."""
    with file.open("wb") as stream:
        torch.save(dict(state), stream)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Bring new names in a folder to disk, where the system offers that."""
    if os.name == "posix":
        _sync(folder)


def _sync(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ValueError: If it is missing or damaged.
    """
    if not file.is_file():
        raise ValueError(f"expected the weights in {file}, got no such file; see ppvae.save")
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"expected a safetensors file, got {file}: {error}") from error


def read_metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself beside its tensors.

    Raises:
        ValueError: If it is missing or damaged.
    """
    try:
        with safe_open(file, "pt") as content:
            return content.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"expected a safetensors file, got {file}: {error}") from error


def warn_if_changed(file: Path, module: nn.Module, now: str) -> None:
    """Warn where a module's program, whose mark is `now`, is not the one whose weights `file` holds."""
    was = read_metadata(file).get(SOURCE)
    if was and now and was != now:
        warnings.warn(
            f"the source of {type(module).__name__} has changed since {file} was written: its weights fit by shape, "
            "but may mean something else; go back to the old source, or train anew",
            stacklevel=3,
        )


def check_fits(weights: dict[str, Tensor], module: nn.Module, file: Path) -> None:
    """Check names, shapes and types of the tensors read from `file` against a module's.

    Raises:
        ValueError: At the first fault, naming the tensor.
    """
    own = module.state_dict()
    missing, unknown = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    if missing or unknown:
        faults = [f"none for {missing[:3]}"] if missing else []
        faults += [f"also {unknown[:3]}"] if unknown else []
        raise ValueError(
            f"expected in {file} the tensors of {type(module).__name__}, got {', '.join(faults)}; "
            "build the module as it was saved"
        )
    for name, tensor in own.items():
        came = weights[name]
        if came.shape != tensor.shape or came.dtype != tensor.dtype:
            raise ValueError(
                f"tensor '{name}': expected {_form(tensor)} in {file}, got {_form(came)}; "
                "build the module as it was saved"
            )


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def check_plain(value: Any, place: str) -> None:
    """Check that a value holds only what `torch.load(..., weights_only=True)` reads.

    Arguments:
        value: Tensors, numbers, strings, None, and dicts, lists and tuples of them.
        place: What to call it in the message.

    Raises:
        ValueError: At the first fault, naming its place.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            check_plain(part, f"{place}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, part in enumerate(value):
            check_plain(part, f"{place}[{index}]")
    elif type(value) not in PLAIN and not isinstance(value, Tensor):
        raise ValueError(
            f"expected tensors, numbers, strings and plain containers, got "
            f"{type(value).__name__} at {place}"
        )


def to_json(value: Mapping[str, Any], indent: int | None = 2) -> str:
    """A record as JSON; a value that JSON does not hold is a ValueError."""
    try:
        return json.dumps(value, indent=indent)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected settings and metrics that JSON holds, got: {error}") from error


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
