r"""Ctrl-C and SIGTERM: held back until a step has been finished, or turned into an exception."""

__all__ = ["DeferredSignals", "exit_on_sigterm"]

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM  # the exit code that shells give
ECHO = 1.0  # seconds within which a launcher passes on the signal that the terminal sent already


class DeferredSignals:
    """The first Ctrl-C or SIGTERM waits to be asked for; one over a second later acts at once.

    Attributes:
        received: Number of the signal, 0 for none.
    """

    def __init__(self) -> None:
        self.received, self._since = 0, 0.0

    def defer(self) -> AbstractContextManager[None]:
        """Hold signals back for the length of a block."""
        return _handling((signal.SIGINT, signal.SIGTERM), self._receive)

    def raise_signal(self, number: int) -> None:
        """Do what a signal asks for.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SystemExit: After SIGTERM, with the exit code 143.
        """
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGTERM:
            raise SystemExit(TERMINATED)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and time.monotonic() - self._since > ECHO:
            self.raise_signal(number)
        if not self.received:
            self.received, self._since = number, time.monotonic()


def exit_on_sigterm() -> AbstractContextManager[None]:
    """A context in which SIGTERM raises `SystemExit` with the exit code 143."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    return _handling((signal.SIGTERM,), leave)


@contextmanager
def _handling(
    numbers: Sequence[int], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Handle signals in the block; ignored ones stay ignored.

    Outside the main thread, where Python lets nobody handle signals, it changes nothing.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in numbers if is_main}
    replaced = {n: old for n, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in replaced:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in replaced.items():
            signal.signal(number, old)
