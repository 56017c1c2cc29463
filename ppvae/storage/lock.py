r"""One process at a time in a folder: the system lifts the lock when its holder dies."""

__all__ = ["LOCK", "locked"]

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"  # it stays in the folder, and says who held it last


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, for the length of the block.

    Raises:
        ValueError: If another process holds it, named by its number, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected a folder for the run, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    # No fallback to a file that merely exists: it would outlive a holder that is killed.
    lock = FileLock(file, timeout=0, mode=0o644, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        holder = file.read_text(errors="replace").strip() or "unknown"
        raise ValueError(
            f"expected a run folder that no other process uses, got {folder}, which process "
            f"{holder} is writing; wait for it, end it, or name another folder"
        ) from error
    try:
        file.write_text(f"{os.getpid()} on {platform.node()}\n")
        yield
    finally:
        lock.release()
