r"""NumPy's `.npy` and `.npz`, read without pickles and without trusting a declared shape."""

__all__ = ["read_npy", "read_npz"]

import io
import math
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

# NotImplementedError (a compression that zipfile lacks) is a RuntimeError.
ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)

HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(path: Path) -> np.ndarray:
    r"""The array in one `.npy` file; ValueError when it is damaged or holds pickled objects."""
    return _parse(path.read_bytes(), str(path))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    r"""The arrays in one `.npz` file by key; ValueError when damaged or holding other things."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except ZIP_FAULTS as fault:
        raise ValueError(f"expected a zip archive of arrays at {path}, got: {fault}") from fault
    if not members:
        raise ValueError(f"expected at least one array in {path}, got an archive that is empty")
    return {
        member.removesuffix(".npy"): _parse(content, f"{path} at '{member.removesuffix('.npy')}'")
        for member, content in members.items()
    }


def _parse(content: bytes, where: str) -> np.ndarray:
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = HEADERS[version](stream)
    except KeyError as fault:
        raise ValueError(
            f"expected an array of numbers in {where}, got .npy version {fault}"
        ) from fault
    except (ValueError, SyntaxError, TypeError, tokenize.TokenError) as fault:
        raise ValueError(
            f"expected an array in NumPy's .npy format in {where}, got: {fault}"
        ) from fault
    if dtype.hasobject:
        raise ValueError(
            f"expected an array of numbers in {where}, got pickled objects, which are never "
            "loaded: "
            "save numbers with one shape"
        )
    declared, held = math.prod(shape) * dtype.itemsize, len(content) - stream.tell()
    if declared != held or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(
            f"expected the {declared} bytes that {where} declares as shape {shape}, got {held} "
            "bytes"
        )
    if declared == 0:
        return np.empty(shape, dtype)
    flat = np.frombuffer(content, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")
