r"""Ctrl-C and SIGTERM, held back until the step that is under way has been finished."""

__all__ = ["TERMINATED", "Interrupts"]

import signal
import threading
from types import FrameType
from typing import Any

TERMINATED = 128 + signal.SIGTERM  # the exit code that shells give


class Interrupts:
    """A context in which the first Ctrl-C or SIGTERM waits to be asked for; the second acts at once.

    Outside the main thread, where Python lets nobody handle signals, it changes nothing. A signal that the process
    ignores stays ignored.
    """

    def __init__(self) -> None:
        self._came: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def waiting(self) -> bool:
        """Whether a signal has come."""
        return self._came is not None

    def act(self) -> None:
        """Do what the signal that came asks for.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SystemExit: After SIGTERM, with the exit code 143.
        """
        if self._came == signal.SIGINT:
            raise KeyboardInterrupt
        if self._came == signal.SIGTERM:
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
        if self.waiting:
            self._came = number
            self.act()
        self._came = number
