r"""NumPy's `.npy` and `.npz`, read without pickles and without trusting a declared shape."""

__all__ = ["NpyFile", "check_room", "read_npy", "read_npz"]

import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

# NotImplementedError (a compression that zipfile lacks) is a RuntimeError.
ZIP_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
    struct.error,
)
# What NumPy raises on a damaged header; the last two where it is nested too deeply for Python's parser.
HEADER_FAULTS = (
    ValueError,
    SyntaxError,
    TypeError,
    OverflowError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
)
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# An archive may unpack to so many bytes, or to so many times its own size: beyond lie zip bombs.
ROOM = 2**30
MAX_RATIO = 100


class Header(NamedTuple):
    r"""What a `.npy` file says of its array, whose numbers begin at byte `offset`."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    offset: int


class NpyFile:
    r"""The array in one `.npy` file, whose rows are read when they are asked for.

    They are read anew each time, not mapped: so nothing of them counts towards a limit on the process's memory, and a file
    that was cut short meanwhile is an error where a mapping would be a signal.

    Arguments:
        path: of the file.

    Raises:
        ValueError: a file that is damaged or holds pickled objects, or rows that do not lie one after the other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            header = _header(stream, path.stat().st_size, str(path))
        self.shape, fortran, self.dtype, self.offset = header
        if fortran and len(self.shape) > 1:
            raise ValueError(
                f"expected rows that lie one after the other in {path}, got an array in Fortran's order: save "
                "np.ascontiguousarray of it"
            )

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        r"""Rows by their numbers `(B,)` ≥ 0, or from a start to before a stop: `(B, *event)`."""
        width = math.prod(self.shape[1:]) * self.dtype.itemsize  # bytes of a row
        if isinstance(index, slice):
            starts, count = [index.start], index.stop - index.start
        else:
            starts, count = index.tolist(), len(index)
        content = np.empty((len(starts), count * width // len(starts)), np.uint8)
        with self.path.open("rb", buffering=0) as stream:
            for start, target in zip(starts, content, strict=True):
                stream.seek(self.offset + start * width)
                self._fill(stream, memoryview(target))
        return content.reshape(-1).view(self.dtype).reshape(count, *self.shape[1:])

    def _fill(self, stream: IO[bytes], target: memoryview) -> None:
        while len(target):  # one read gives 2 GB at most
            got = stream.readinto(target)  # type: ignore[attr-defined]
            if not got:
                raise ValueError(
                    f"expected the shape {self.shape} that {self.path} declared, got its end: it was cut short since"
                )
            target = target[got:]


def read_npy(path: Path) -> np.ndarray:
    r"""The array in one `.npy` file; ValueError when it is damaged or holds pickled objects."""
    with path.open("rb") as stream:
        return _array(stream, path.stat().st_size, str(path))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    r"""The arrays in one `.npz` file by key; ValueError when damaged or holding other things.

    Nothing is unpacked whose own header and the archive's do not agree on its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if not members:
                raise ValueError(
                    f"expected at least one array in {path}, got an archive that is empty"
                )
            check_room(sum(info.file_size for info in members), path)
            return {
                info.filename.removesuffix(".npy"): _member(archive, info, path) for info in members
            }
    except ZIP_FAULTS as fault:
        if isinstance(fault, ValueError) and str(fault).startswith("expected"):
            raise
        raise ValueError(f"expected a zip archive of arrays at {path}, got: {fault}") from fault


def check_room(unpacked: int, path: Path) -> None:
    r"""Raises ValueError where a file declares to unpack to far more bytes than it has."""
    size = path.stat().st_size
    if unpacked > max(ROOM, MAX_RATIO * size):
        raise ValueError(
            f"expected a file that unpacks to {MAX_RATIO} times its size at most, got {path} of {size} bytes, "
            f"which declares {unpacked}: if these are data, save them as .npy"
        )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> np.ndarray:
    where = f"{path} at '{info.filename.removesuffix('.npy')}'"
    with archive.open(info) as stream:
        return _array(stream, info.file_size, where)


def _array(stream: IO[bytes], size: int, where: str) -> np.ndarray:
    header = _header(stream, size, where)
    try:
        content = stream.read()
    except MemoryError as fault:
        raise ValueError(
            f"expected an array that fits in memory in {where}, got shape {header.shape}: train from a .npy file that "
            "is read as it is needed (ppvae.data.mapped, or --data FILE.npy:mapped=true)"
        ) from fault
    if math.prod(header.shape) == 0:
        return np.empty(header.shape, header.dtype)
    flat = np.frombuffer(content, header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def _header(stream: IO[bytes], size: int, where: str) -> Header:
    r"""The header of an array that is stored in `size` bytes, known to agree with that."""
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = HEADERS[version](stream)
    except KeyError as fault:
        raise ValueError(
            f"expected an array of numbers in {where}, got .npy version {fault}"
        ) from fault
    except HEADER_FAULTS as fault:
        raise ValueError(
            f"expected an array in NumPy's .npy format in {where}, got: {fault}"
        ) from fault
    if dtype.hasobject:
        raise ValueError(
            f"expected an array of numbers in {where}, got pickled objects, which are never "
            "loaded: save numbers with one shape"
        )
    declared, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if declared != held or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(
            f"expected the {declared} bytes that {where} declares as shape {shape}, got {held} "
            "bytes"
        )
    try:
        np.broadcast_to(np.zeros((), dtype), shape)
    except (ValueError, TypeError) as fault:  # too many dimensions, or sizes that it cannot count
        raise ValueError(f"expected a shape that NumPy has in {where}, got: {fault}") from fault
    return Header(shape, fortran, dtype, stream.tell())
