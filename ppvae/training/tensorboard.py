r"""The records of a training as TensorBoard's curves."""

__all__ = ["TensorBoard"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppvae.training.callbacks import Callback


class TensorBoard(Callback):
    """Write each epoch's record where `tensorboard --logdir` finds it.

    Arguments:
        folder: Where; made if need be. A resumed training goes on with the same curves.

    Raises:
        ValueError: If the package `tensorboard` is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                f"expected the package tensorboard, got: {error}; pip install tensorboard"
            ) from error
        self.open = lambda: SummaryWriter(str(Path(folder).expanduser()))
        self.writer: Any = None

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        self.writer = self.writer or self.open()  # here alone: it writes a file at once
        for name, value in _numbers(record):
            if name != "epoch":
                self.writer.add_scalar(name, value, record["epoch"])
        self.writer.flush()

    def on_train_end(self, history: Any) -> None:
        if self.writer is not None:
            self.writer.close()


def _numbers(record: Mapping[str, Any], before: str = "") -> list[tuple[str, float]]:
    """The numbers of a record, those by site as `kl/z`."""
    found = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{before}{name}/")
        elif value is not None:
            found.append((before + name, float(value)))
    return found
