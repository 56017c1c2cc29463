r"""What may be called as training goes on."""

__all__ = ["Callback", "Callbacks", "EpochCallback"]

from collections.abc import Callable, Sequence
from typing import Any

EpochCallback = Callable[[dict[str, Any]], None]


class Callback:
    """Three hooks, none of which does anything here; a plain function of the record serves as `on_epoch_end`.

    What they raise ends the training, which can then be resumed from its last checkpoint.
    """

    def on_step_end(self, epoch: int, step: int, loss: float) -> None:
        """After each step of an epoch (both from 1); `loss` in nats per row."""

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        """After each epoch; `record` as in `History.records`."""

    def on_train_end(self, history: Any) -> None:
        """After the last epoch, once the weights that are kept have been put back; `history` as `fit` returns it."""


class _Function(Callback):
    def __init__(self, function: EpochCallback) -> None:
        self.function = function

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        self.function(record)


class Callbacks(Callback):
    """Several as one, called in their order.

    Raises:
        ValueError: If one is neither a `Callback` nor a function.
    """

    def __init__(self, parts: Sequence[Callback | EpochCallback]) -> None:
        if not isinstance(parts, Sequence):
            raise ValueError(f"expected a list of callbacks, got {parts!r}; write callbacks=[...]")
        for part in parts:
            if not isinstance(part, Callback) and not callable(part):
                raise ValueError(
                    f"expected callbacks that are a ppvae.Callback or a function of an epoch's record, got "
                    f"{type(part).__name__}"
                )
        self.parts = [p if isinstance(p, Callback) else _Function(p) for p in parts]

    def on_step_end(self, epoch: int, step: int, loss: float) -> None:
        for part in self.parts:
            part.on_step_end(epoch, step, loss)

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        for part in self.parts:
            part.on_epoch_end(record)

    def on_train_end(self, history: Any) -> None:
        for part in self.parts:
            part.on_train_end(history)
