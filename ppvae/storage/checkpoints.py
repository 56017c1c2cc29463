r"""Checkpoints of a training: the last two states, each a whole folder or none."""

__all__ = ["CHECKPOINT", "Checkpoints"]

import os
import pickle
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from ppvae.storage.files import UNFINISHED, sync, write_state
from ppvae.storage.weights import load_modules, read_tensors, save_modules

NUM_KEPT = 2
CHECKPOINT = re.compile(r"epoch_(\d+)(?:_batch_(\d+))?")
# What the restricted unpickler raises on damaged bytes as well as on refused content.
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError, AttributeError),
    *(AssertionError, MemoryError, OverflowError, SyntaxError, pickle.UnpicklingError),
)


class Checkpoints:
    """The folder `checkpoints` of a run; reading it runs no code from it.

    Arguments:
        path: The folder; made when the first checkpoint is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(
        self,
        epoch: int,
        modules: Mapping[str, nn.Module],
        state: Mapping[str, Any],
        batches: int = 0,
    ) -> Path:
        """Keep the state after an epoch, or in the middle of the next.

        It is on disk, whole, before an older one goes; the last two stay.

        Arguments:
            epoch: Number of epochs done.
            modules: Name -> module whose parameters and buffers are kept.
            state: Everything else (optimiser, generators, best value): tensors, numbers, strings,
                None, and dicts, lists and tuples of them.
            batches: Batches done of the next epoch.

        Returns:
            The checkpoint's folder.

        Raises:
            ValueError: If `state` holds anything else, named by its place.
            OSError: If it cannot be written, as on a full disk; older checkpoints are then as they
                were.
        """
        self.path.mkdir(exist_ok=True)
        for stale in self.path.glob(f"{UNFINISHED}*"):
            shutil.rmtree(stale)
        written = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.path))
        try:
            save_modules(written, modules)
            write_state(written / "state.pt", {**state, "epoch": epoch, "batches": batches})
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(written, ignore_errors=True)
            raise OSError(
                f"expected to write a checkpoint of {self.path.parent}, got: {error}; the one "
                "before is kept: make room and go on from it with resume=True (--resume)"
            ) from error
        final = self.path / (f"epoch_{epoch:06d}" + (f"_batch_{batches:06d}" if batches else ""))
        if final.exists():
            shutil.rmtree(final)
        os.replace(written, final)
        sync(self.path)
        kept = self.newest_first()
        newer = kept.index(final)  # they could not be read when the run went on from an older one
        for other in kept[:newer] + kept[newer + NUM_KEPT :]:
            shutil.rmtree(other)
        return final

    def load(self, modules: Mapping[str, nn.Module]) -> dict[str, Any] | None:
        """Load the newest checkpoint that can be read into `modules`.

        Arguments:
            modules: Name -> module, as they were saved; none is touched before all have been read.

        Returns:
            The state that was saved, with its `epoch`; None if no checkpoint was ever written.

        Raises:
            ValueError: If the weights do not fit the modules, or no checkpoint can be read.
        """
        checkpoints = self.newest_first()
        for folder in checkpoints:
            try:
                weights = {name: read_tensors(folder / f"{name}.safetensors") for name in modules}
                state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
                state = {"epoch": int(state["epoch"]), **state}
            except UNREADABLE as error:
                warnings.warn(
                    f"checkpoint {folder} cannot be read ({type(error).__name__}: {error}); "
                    "falling back to the one before",
                    stacklevel=2,
                )
                continue
            load_modules(folder, modules, weights)
            return dict(state)
        if checkpoints:
            raise ValueError(
                f"expected a readable checkpoint in {self.path}, got {len(checkpoints)} that "
                "cannot be read; start again in another folder"
            )
        return None

    def newest_first(self) -> list[Path]:
        """The finished checkpoints."""
        found = self.path.iterdir() if self.path.exists() else []
        places = {p: match for p in found if (match := CHECKPOINT.fullmatch(p.name))}
        return sorted(places, key=lambda p: [int(n or 0) for n in places[p].groups()], reverse=True)
