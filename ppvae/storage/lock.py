r"""One process at a time in a folder: a lock that the system lifts when its holder dies, however it dies."""

__all__ = ["LOCK", "locked"]

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not every system has it
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, for the length of the block.

    Raises:
        ValueError: If another process holds it, named by its number, or a file is in the folder's place.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected a folder for the run, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        warnings.warn(f"this system has no file locks: {folder} is not guarded", stacklevel=3)
        yield
        return
    file = folder / LOCK
    handle = _hold(file)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()} on {platform.node()}\n".encode())
        yield
    finally:
        file.unlink(
            missing_ok=True
        )  # while it is held: who opened it in between sees that it is gone
        os.close(handle)


def _hold(file: Path) -> int:
    """The lock file, opened and locked."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise ValueError(
                f"expected a run folder that no other process uses, got {file.parent}, which process {holder} is "
                "writing; wait for it, end it, or name another folder"
            ) from error
        except BaseException:
            os.close(handle)
            raise
        if file.exists() and os.path.samestat(os.fstat(handle), file.stat()):
            return handle
        os.close(handle)  # its last holder took it away between opening and locking
