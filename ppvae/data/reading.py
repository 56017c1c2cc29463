r"""What readers of files share: one error for damage, a limit on unpacking, `.npy` files."""

__all__ = ["NpyFile", "check_unpacked_size", "read_npy_header", "reading"]

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

# A file may unpack to so many bytes, or so many times its own size; more is a decompression bomb.
MAX_UNPACKED = 2**30
MAX_RATIO = 100
NPY = "one array of numbers as np.save writes it, without pickled objects,"
NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class NpyHeader(NamedTuple):
    r"""What a `.npy` file says of its array, whose numbers begin at byte `offset`."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype
    offset: int


class NpyFile:
    r"""The array in a `.npy` file, whose rows are read when they are asked for.

    They are not mapped: no page of the file counts as the process's memory, and a file that was cut
    short meanwhile is an error where a mapping would be a signal.

    Arguments:
        path: of the file.

    Raises:
        ValueError: a file that is damaged or holds pickled objects, or rows that do not lie one
            after the other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(NPY, path), path.open("rb") as stream:
            header = read_npy_header(stream, path.stat().st_size)
        self.shape, is_fortran, self.dtype, self.offset = header
        if is_fortran and len(self.shape) > 1:
            raise ValueError(
                f"expected rows that lie one after the other in {path}, got an array in Fortran's "
                "order: save np.ascontiguousarray of it"
            )

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        r"""Rows by their numbers `(B,)` ≥ 0: `(B, *event)`."""
        rows = np.empty((len(index), *self.shape[1:]), self.dtype)
        with self.path.open("rb", buffering=0) as stream:
            for number, row in zip(index.tolist(), rows.reshape(len(index), -1), strict=True):
                stream.seek(self.offset + number * row.nbytes)
                if stream.readinto(row.view(np.uint8).data) != row.nbytes:
                    raise ValueError(
                        f"expected shape {self.shape} in {self.path}, got its end: it was cut short"
                    )
        return rows


def read_npy_header(stream: IO[bytes], size: int) -> NpyHeader:
    r"""The header of an array that is stored in `size` bytes; ValueError where they disagree."""
    header = NPY_HEADERS[np.lib.format.read_magic(stream)](stream)
    shape, _, dtype = header
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"shape {shape} of {dtype}")
    held = size - stream.tell()
    if math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{held} bytes for shape {shape} of {dtype}")
    np.broadcast_to(np.zeros((), dtype), shape)  # raises for a shape that NumPy cannot have
    return NpyHeader(*header, stream.tell())


@contextmanager
def reading(content: str, path: Path) -> Iterator[None]:
    r"""Turns whatever a library raises while it reads a file into a ValueError that names the file.

    Arguments:
        content: what is expected in the file.
        path: of the file.
    """
    try:
        yield
    except MemoryError as error:
        raise ValueError(
            f"expected an array that fits in memory in {path}: train from a .npy file that "
            "is read as it is needed (ppvae.data.mapped, or --data FILE.npy:mapped=true)"
        ) from error
    except ImportError as error:
        raise ValueError(
            f"expected pandas and pyarrow to read {path}, got: {error}. Install them, or save the "
            "table as .npz"
        ) from error
    except Exception as error:  # a damaged file can raise anything
        found = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"expected {content} in {path}, got: {found}") from error


def check_unpacked_size(unpacked: int, path: Path) -> None:
    r"""Raises ValueError where a file says that it unpacks to far more bytes than it has."""
    size = path.stat().st_size
    if unpacked > max(MAX_UNPACKED, MAX_RATIO * size):
        raise ValueError(
            f"{size} bytes that unpack to {unpacked}, over {MAX_RATIO} times as many: if these are "
            "data, save them as .npy"
        )
