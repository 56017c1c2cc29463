r"""What a training leaves in its run folder as it goes: when a checkpoint is due, and what a signal does."""

__all__ = ["Keeper", "kept_in", "same_settings"]

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ppvae import ranks
from ppvae.lock import locked
from ppvae.runs import RunFolder
from ppvae.training.history import Record
from ppvae.training.interrupts import Interrupts
from ppvae.training.trainer import Trainer


@contextmanager
def kept_in(
    path: str | Path, config: Mapping[str, Any], resume: bool
) -> Iterator[tuple[RunFolder, Interrupts]]:
    """Hold a run folder for the length of the block, and hold signals back.

    Where several processes train, the first one holds and writes the folder, which all must see.

    Arguments:
        path: The folder.
        config: What its `config.json` is to say.
        resume: Whether it goes on with a run that has begun; then its settings are the run's.

    Raises:
        ValueError: If another process holds it, it is no fresh folder, or the settings have changed.
    """
    path = Path(path).expanduser()
    with locked(path) if ranks.is_first() else nullcontext():
        if ranks.is_first():
            folder = RunFolder.create(path, config, resume=resume)
        ranks.wait()
        if not ranks.is_first():
            folder = RunFolder.create(path, config, resume=True)
        same_settings(folder.config.get("fit", {}), config["fit"])
        with Interrupts() as held:
            yield folder, held


class Keeper:
    """Writes checkpoints of a training, and ends it where a signal asks for that.

    Arguments:
        folder: The run folder.
        interrupts: The signals that are held back.
        trainer: The training.
        every: Seconds between checkpoints within an epoch.
    """

    def __init__(
        self, folder: RunFolder, interrupts: Interrupts, trainer: Trainer, every: float
    ) -> None:
        self.folder, self.interrupts = folder, interrupts
        self.trainer, self.every = trainer, every
        self.modules = {"story": trainer.story, "guide": trainer.guide}
        self._last = time.monotonic()
        trainer.after_step = self.after_step
        trainer.descent.signalled = lambda: interrupts.came

    def take_up(self) -> None:
        """Go on from the newest checkpoint that can be read."""
        self.trainer.restore(self.folder.load_checkpoint(self.modules))
        ranks.wait()
        if ranks.is_first():
            self.folder.drop_metrics_after(len(self.trainer.history.records))

    def after_step(self) -> None:
        """Write a checkpoint where one is due, or a signal has come to any process; then do what that asks for."""
        came = self._came()
        if came or time.monotonic() - self._last >= self.every:
            self._write()
        self._act(came)

    def after_epoch(self, record: Record) -> None:
        """Write the epoch's record and a checkpoint."""
        if ranks.is_first():
            self.folder.append_metrics(record)
        self._write()
        self._act(ranks.agreed(self.interrupts.came))

    def _came(self) -> int:
        """The signal that ends the training after this step, in all processes alike; 0 for none."""
        if ranks.num_ranks() == 1:
            return self.interrupts.came
        descent = self.trainer.descent
        return ranks.agreed(self.interrupts.came) if descent.somebody_signalled else 0

    def _act(self, came: int) -> None:
        if came:
            ranks.wait()  # a process that ends before the checkpoint is written would end the others with it
            self.interrupts.act(came)

    def _write(self) -> None:
        if ranks.is_first():
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
