r"""Ctrl-C and SIGTERM, held back until the step that is under way has been finished."""

__all__ = ["TERMINATED", "Interrupts", "terminable"]

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

TERMINATED = 128 + signal.SIGTERM  # the exit code that shells give
ECHO = 1.0  # seconds within which a launcher passes on the signal that the terminal sent already


class Interrupts:
    """A context in which the first Ctrl-C or SIGTERM waits to be asked for; a second one, later than a second after,
    acts at once.

    Outside the main thread, where Python lets nobody handle signals, it changes nothing. A signal that the process
    ignores stays ignored.
    """

    def __init__(self) -> None:
        self.came = 0  # number of the signal, 0 for none
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def act(self, number: int) -> None:
        """Do what a signal asks for.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SystemExit: After SIGTERM, with the exit code 143.
        """
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGTERM:
            raise SystemExit(TERMINATED)

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._hold)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self.came and time.monotonic() - self._since > ECHO:
            self.act(number)
        if not self.came:
            self.came, self._since = number, time.monotonic()


@contextmanager
def terminable() -> Iterator[None]:
    """A context in which SIGTERM, as Ctrl-C does, ends the block at once by an exception, so that what is held is let go.

    Raises:
        SystemExit: After SIGTERM, with the exit code 143.
    """
    before = signal.getsignal(signal.SIGTERM)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before in (signal.SIG_IGN, None):
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
