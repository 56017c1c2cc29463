r"""What a training leaves in its run folder as it goes: when a checkpoint is due, and what a signal does."""

__all__ = ["Keeper", "same_settings"]

import time

from torch import nn

from ppvae.interrupts import Interrupts
from ppvae.runs import RunFolder
from ppvae.trainer import Record, Trainer


class Keeper:
    """Writes checkpoints of a training, and ends it where a signal asks for that.

    Arguments:
        folder: The run folder.
        modules: Name -> module whose weights are kept.
        trainer: The training.
        every: Seconds between checkpoints within an epoch.
        interrupts: The signals that are held back.
    """

    def __init__(
        self,
        folder: RunFolder,
        modules: dict[str, nn.Module],
        trainer: Trainer,
        every: float,
        interrupts: Interrupts,
    ) -> None:
        self.folder, self.modules, self.trainer = folder, modules, trainer
        self.every, self.interrupts = every, interrupts
        self._last = time.monotonic()

    def take_up(self) -> None:
        """Go on from the newest checkpoint that can be read."""
        self.trainer.restore(self.folder.load_checkpoint(self.modules))
        self.folder.drop_metrics_after(len(self.trainer.history.records))

    def after_step(self) -> None:
        """Write a checkpoint where one is due, or a signal has come; then do what that asks for."""
        if self.interrupts.waiting or time.monotonic() - self._last >= self.every:
            self._write()
        self.interrupts.act()

    def after_epoch(self, record: Record) -> None:
        """Write the epoch's record and a checkpoint."""
        self.folder.append_metrics(record)
        self._write()
        self.interrupts.act()

    def _write(self) -> None:
        done = len(self.trainer.history.records)
        state = self.trainer.state()
        self.folder.save_checkpoint(done, self.modules, state, self.trainer.batches_done)
        self._last = time.monotonic()


def same_settings(old: Record, new: Record) -> None:
    """Refuse to resume a run otherwise than it began; more epochs are allowed.

    Raises:
        ValueError: Naming each setting that changed.
    """
    changed = [k for k, v in new.items() if k != "epochs" and k in old and old[k] != v]
    if changed:
        told = ", ".join(f"{k} {old[k]!r} -> {new[k]!r}" for k in changed)
        raise ValueError(
            f"expected the settings with which the run began, got {told}; resume with the same ones, or start "
            "another run folder"
        )
