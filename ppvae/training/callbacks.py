r"""What may be called as training goes on."""

__all__ = ["Callback", "EpochCallback", "as_callbacks"]

from collections.abc import Callable, Sequence
from typing import Any

from ppvae.training.history import History, Record

EpochCallback = Callable[[Record], None]


class Callback:
    """Hooks that do nothing here; a plain function of the record serves as `on_epoch_end`.

    What they raise ends the training, which can then be resumed from its last checkpoint. Where
    several processes train, those that a user gives are called in the main one.
    """

    def on_train_start(self, trainer: Any) -> None:
        """Before the first step; `trainer` is the `Trainer`."""

    def on_step_end(self, epoch: int, step: int, loss: float) -> None:
        """After each step of an epoch (both from 1); `loss` in nats per row."""

    def on_validation_start(self) -> None:
        """Before the measurements at the end of an epoch."""

    def on_validation_end(self, record: Record) -> None:
        """After them; `record` as in `History.records`."""

    def on_epoch_end(self, record: Record) -> None:
        """After each epoch; `record` as in `History.records`."""

    def on_train_end(self, history: History) -> None:
        """After the last epoch, with the weights that are kept; `history` as `fit` returns it."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: tensors, numbers, strings, None, dicts and lists of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


def as_callbacks(callbacks: Sequence[Callback | EpochCallback]) -> list[Callback]:
    """Callbacks, functions among them, as objects with all hooks.

    Raises:
        ValueError: If one is neither a `Callback` nor a function.
    """
    if not isinstance(callbacks, Sequence):
        raise ValueError(f"expected a list of callbacks, got {callbacks!r}; write callbacks=[...]")
    for callback in callbacks:
        if not isinstance(callback, Callback) and not callable(callback):
            raise ValueError(
                "expected callbacks that are a ppvae.Callback or a function of an epoch's record, "
                f"got {type(callback).__name__}"
            )
    return [c if isinstance(c, Callback) else _EpochFunction(c) for c in callbacks]


class _EpochFunction(Callback):
    def __init__(self, function: EpochCallback) -> None:
        self.function = function

    def on_epoch_end(self, record: Record) -> None:
        self.function(record)
