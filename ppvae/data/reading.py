r"""What readers of files share: one clear error for damage, and a limit on unpacking."""

__all__ = ["check_unpacked_size", "reading"]

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A file may unpack to so many bytes, or so many times its own size; more is a decompression bomb.
MAX_UNPACKED = 2**30
MAX_RATIO = 100


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
