r"""When a checkpoint of a training is due, and what a signal does."""

__all__ = ["Checkpointing"]

import time
import warnings
from typing import Any

from ppvae.storage.run_folder import RunFolder
from ppvae.training.callbacks import Callback
from ppvae.training.distributed import (
    all_reduce_max,
    broadcast_weights,
    is_main_process,
    on_main_process,
)
from ppvae.training.history import Record
from ppvae.training.signals import DeferredSignals
from ppvae.training.trainer import Trainer

SHORT = 1.0  # seconds: epochs that are shorter share a checkpoint


class Checkpointing(Callback):
    """Writes checkpoints of a training, and ends it where a signal asks for that.

    Arguments:
        folder: The run folder, which the main process holds, reads and writes.
        signals: The signals that are held back.
        every: Seconds between checkpoints within an epoch.
        resume: Whether to go on from the newest checkpoint that can be read.
    """

    def __init__(
        self, folder: RunFolder, signals: DeferredSignals, every: float, resume: bool
    ) -> None:
        self.folder, self.signals = folder, signals
        self.every, self.resume = every, resume
        self._last = time.monotonic()

    def on_train_start(self, trainer: Trainer) -> None:
        self.trainer = trainer
        if not self.resume:
            return
        state = on_main_process(lambda: self.folder.checkpoints.load(trainer.modules))
        if state is None:
            return
        broadcast_weights(trainer.loss_of)
        trainer.load_state_dict(state)
        self._check_epochs()
        if is_main_process():
            self.folder.drop_metrics_after(len(trainer.history.records))

    def on_step_end(self, epoch: int, step: int, loss: float) -> None:
        self._write_if(time.monotonic() - self._last >= self.every)

    def on_epoch_end(self, record: Record) -> None:
        if is_main_process():
            self.folder.append_metrics(record)
        age = time.monotonic() - self._last
        self._write_if(self.trainer.is_done or age >= min(self.every, SHORT))

    def _write_if(self, is_due: bool) -> None:
        """Write if the main process finds it due, or a signal has come to any; then obey that.

        All processes must agree: what each of them holds goes into the checkpoint.
        """
        code = all_reduce_max(2 * self.signals.received + (is_due and is_main_process()))
        if code:
            state = self.trainer.state_dict()
            on_main_process(lambda: self._write(state))
            self._last = time.monotonic()
        self.signals.raise_signal(code // 2)

    def _write(self, state: dict[str, Any]) -> None:
        done = len(self.trainer.history.records)
        batches = self.trainer.epoch.batches_done
        self.folder.checkpoints.save(done, self.trainer.modules, state, batches)

    def _check_epochs(self) -> None:
        """Allow other epochs than the run began with; warn if they change the learning rate."""
        config, done = self.trainer.config, len(self.trainer.history.records)
        if config.epochs < done:
            raise ValueError(
                f"expected at least the {done} epochs that the run has done, got "
                f"epochs={config.epochs}"
            )
        began = self.folder.config["fit"]["epochs"]
        if config.epochs != began and config.schedule != "constant" and is_main_process():
            warnings.warn(
                f"epochs {began} -> {config.epochs}: the learning rate goes on by the schedule "
                f"'{config.schedule}' of {config.epochs} epochs, but the first {done} followed "
                f"that of {began}; the result is not that of a run of {config.epochs} from the "
                "start",
                stacklevel=2,
            )
