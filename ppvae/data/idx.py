r"""The IDX files of the MNIST family, plain or gzipped, read as they lie.

torchvision unpacks them beside themselves first, which needs a data folder that can be written to
and a torchvision that imports.
"""

__all__ = ["find_idx", "read_idx"]

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

UINT8 = 0x08
MAX_DEFLATE_RATIO = 1032  # no deflate stream grows by more
BLOCK = 1 << 20  # bytes


def find_idx(folder: Path, stem: str) -> Path | None:
    r"""The file `stem` in `folder`, unpacked or as `.gz`; None when neither is there."""
    candidates = (folder / stem, folder / f"{stem}.gz")
    return next((path for path in candidates if path.is_file()), None)


def read_idx(path: Path) -> np.ndarray:
    r"""Reads an IDX file of unsigned bytes without trusting the shape that it declares.

    Arguments:
        path: of the file; the ending `.gz` means that it is gzipped.

    Returns:
        Array of uint8 in the declared shape.

    Raises:
        ValueError: a wrong magic number, another element type, a declared shape that the file
            cannot or does not hold, or damaged compression.

    Source:
        LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section on file
        formats.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            return _parse(stream, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise ValueError(
            f"expected a gzipped IDX file at {path}, got a damaged one: {fault}"
        ) from fault


def _parse(stream: io.BufferedIOBase, path: Path) -> np.ndarray:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != UINT8 or magic[3] == 0:
        raise ValueError(
            "expected an IDX file of bytes (magic 00 00 08 and the number of dimensions) at "
            f"{path}, got {magic.hex(' ') or 'an empty file'}"
        )
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise ValueError(
            f"expected {magic[3]} dimensions in the header of {path}, got a shorter file"
        )
    shape = struct.unpack(f">{magic[3]}I", sizes)
    declared = math.prod(shape)
    ratio = MAX_DEFLATE_RATIO if path.suffix == ".gz" else 1
    if declared > path.stat().st_size * ratio:
        raise ValueError(
            f"expected the {declared} bytes that {path} declares as shape {shape}, "
            f"got a file of {path.stat().st_size} bytes, which cannot hold them"
        )
    return np.frombuffer(_content(stream, declared, path), np.uint8).reshape(shape)


def _content(stream: io.BufferedIOBase, declared: int, path: Path) -> bytearray:
    r"""Exactly the declared bytes; memory grows with what is read, not with what is declared."""
    content = bytearray()
    while len(content) < declared:
        block = stream.read(min(BLOCK, declared - len(content)))
        if not block:
            raise ValueError(
                f"expected the {declared} bytes that {path} declares, got {len(content)}: the "
                "file is cut short"
            )
        content += block
    if stream.read(1):
        raise ValueError(f"expected the {declared} bytes that {path} declares, got more")
    return content
