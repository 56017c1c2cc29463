r"""What a training leaves in its run folder as it goes: when a checkpoint is due, and what a signal does."""

__all__ = ["Checkpointing", "kept_in", "locked_run_dir", "same_settings"]

import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ppvae import ranks
from ppvae.storage.files import to_json
from ppvae.storage.lock import locked
from ppvae.storage.run_folder import RunFolder
from ppvae.training.history import Record
from ppvae.training.signals import Interrupts
from ppvae.training.trainer import Trainer

SHORT = 1.0  # seconds: epochs that are shorter share a checkpoint

# What the command line remembers and another machine may call otherwise.
PLACES = ("story", "data", "data_root")


@contextmanager
def kept_in(
    path: str | Path, config: Mapping[str, Any], resume: bool
) -> Iterator[tuple[RunFolder, Interrupts]]:
    """Hold the run folder of a training for the length of the block, and hold signals back; as `locked_run_dir`."""
    with (
        locked_run_dir(path, config, resume, "fit", may_change=("epochs",)) as folder,
        Interrupts() as held,
    ):
        yield folder, held


@contextmanager
def locked_run_dir(
    path: str | Path,
    config: Mapping[str, Any],
    resume: bool,
    verb: str,
    may_change: Sequence[str] = (),
) -> Iterator[RunFolder]:
    """Hold a run folder for the length of the block.

    Where several processes work together, the first one holds and writes the folder, which all must see.

    Arguments:
        path: The folder.
        config: What its `config.json` is to say.
        resume: Whether it goes on with a run that has begun; then its settings must be the run's.
        verb: The part of `config` that holds these settings. Those of the command line, under `setup`, must not
            change either, but for where files lie.
        may_change: Settings that may.

    Raises:
        ValueError: If another process holds it, it is no fresh folder, the settings have changed, or not all
            processes see it.
    """
    path = Path(path).expanduser()
    with ExitStack() as held:

        def begin() -> RunFolder:
            held.enter_context(locked(path))
            return RunFolder.create(path, config, resume=resume)

        folder = ranks.by_first(begin)
        _check_shared(folder)
        for part, free in ((verb, may_change), ("setup", PLACES)):
            same_settings(folder.config.get(part, {}), config.get(part, {}), free)
        yield folder


class Checkpointing:
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

    def resume_from_checkpoint(self) -> None:
        """Go on from the newest checkpoint that can be read."""
        self.trainer.restore(self.folder.load_checkpoint(self.modules))
        self._check_epochs()
        done = len(self.trainer.history.records), self.trainer.batches_done
        if len(set(ranks.all_of(done))) > 1:
            raise ValueError(
                f"expected all processes to read one checkpoint of {self.folder.path}, got (epochs, batches) "
                f"{ranks.all_of(done)}; see that all of them can read the newest"
            )
        if ranks.is_first():
            self.folder.drop_metrics_after(len(self.trainer.history.records))

    def _check_epochs(self) -> None:
        """Other epochs than the run began with are allowed, and said where they change more than its length."""
        settings, done = self.trainer.settings, len(self.trainer.history.records)
        if settings.epochs < done:
            raise ValueError(
                f"expected at least the {done} epochs that the run has done, got epochs={settings.epochs}"
            )
        began = self.folder.config.get("fit", {}).get("epochs", settings.epochs)
        if settings.epochs != began and settings.schedule != "constant" and ranks.is_first():
            warnings.warn(
                f"epochs {began} -> {settings.epochs}: the step size goes on by the schedule '{settings.schedule}' of "
                f"{settings.epochs} epochs, but the first {done} followed that of {began}; the result is not that of a run "
                f"of {settings.epochs} from the start",
                stacklevel=2,
            )

    def after_step(self) -> None:
        """Write a checkpoint where one is due, or a signal has come to any process; then do what that asks for."""
        came = self._came()
        if came or time.monotonic() - self._last >= self.every:
            self._write()
        self._act(came)

    def after_epoch(self, record: Record) -> None:
        """Write the epoch's record, and a checkpoint unless the last one is hardly old."""
        if ranks.is_first():
            self.folder.append_metrics(record)
        came = ranks.agreed(self.interrupts.came)
        old = time.monotonic() - self._last
        if came or self.trainer.is_done or old >= min(self.every, SHORT):
            self._write()
        self._act(came)

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


def _check_shared(folder: RunFolder) -> None:
    """Refuse a folder that some processes do not see: they would go on from nothing."""
    file = folder.path / "config.json"
    found = ranks.all_of(file.read_bytes() if file.exists() else b"")
    unseen = [number for number, content in enumerate(found) if content != found[0]]
    if unseen:
        raise ValueError(
            f"expected the run folder on a file system that all processes share, got {folder.path}, which processes "
            f"{unseen} do not see"
        )


def same_settings(old: Record, new: Record, may_change: Sequence[str] = ()) -> None:
    """Refuse to resume a run otherwise than it began.

    Arguments:
        old: What its `config.json` says.
        new: What is asked for now.
        may_change: Settings that need not be the same.

    Raises:
        ValueError: Naming each setting that changed.
    """
    new = json.loads(to_json(new))  # tuples become lists, as they did in the file
    changed = [k for k, v in new.items() if k not in may_change and k in old and old[k] != v]
    if changed:
        told = ", ".join(f"{k} {old[k]!r} -> {new[k]!r}" for k in changed)
        raise ValueError(
            f"expected the settings with which the run began, got {told}; resume with the same ones, or start "
            "another run folder"
        )
