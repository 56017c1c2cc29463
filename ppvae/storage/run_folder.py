r"""The run folder: what one training leaves on disk, written so that a crash never spoils what was
there.

`config.json` says what was run, `metrics.jsonl` grows by a line an epoch, `checkpoints/` holds the
last two states, also from the middle of an epoch, `figures/` the pictures. Weights are safetensors and the rest of a state loads with
`weights_only=True`: reading a folder runs no code from it.
"""

__all__ = ["RunFolder", "load", "save", "versions"]

import json
import os
import pickle
import platform
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from ppvae.storage.files import (
    UNFINISHED,
    check_fits,
    check_plain,
    read_tensors,
    sync_folder,
    to_json,
    warn_if_changed,
    write_bytes,
    write_state,
    write_tensors,
)
from ppvae.storage.fingerprint import source_hash
from ppvae.storage.lock import LOCK

KEPT_CHECKPOINTS = 2
CHECKPOINT = re.compile(r"epoch_(\d+)(?:_batch_(\d+))?")
# What the restricted unpickler raises on damaged bytes as well as on refused content.
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError, AttributeError),
    *(AssertionError, MemoryError, OverflowError, SyntaxError, pickle.UnpicklingError),
)


class RunFolder:
    """One run on disk; made by `RunFolder.create`.

    Attributes:
        path: The folder.
        config: What `config.json` holds.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, config

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], *, resume: bool = False
    ) -> "RunFolder":
        """Make the folder, or take up an old one.

        Arguments:
            path: Where; parents are made.
            config: Settings of the run, anything that JSON holds. Versions and the time are added.
            resume: Whether an existing folder is continued; its own config is kept then.

        Returns:
            The folder.

        Raises:
            ValueError: If it holds files and `resume` is False, if there is nothing to resume in a
                folder that holds files, or if the config is not JSON.
        """
        path = Path(path).expanduser()
        if path.exists() and not path.is_dir():
            raise ValueError(f"expected a folder for the run, got the file {path}")
        names = (p.name for p in path.iterdir()) if path.exists() else ()
        held = sorted(n for n in names if n != LOCK and not n.startswith(UNFINISHED))
        if held and not resume:
            raise ValueError(
                f"expected an empty or new run folder, got {path} with {', '.join(held[:3])}"
                f"{' and more' if len(held) > 3 else ''}; name another folder, or continue it with "
                "resume=True (--resume)"
            )
        if not held:  # the config first: with it, the folder can be resumed
            text = to_json({**config, "versions": versions(), "created": _now()})
            path.mkdir(parents=True, exist_ok=True)
            write_bytes(path / "config.json", text.encode())
        found = cls(path, _read_config(path))
        found.figures.mkdir(exist_ok=True)
        return found

    @property
    def figures(self) -> Path:
        """The folder of the pictures."""
        return self.path / "figures"

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the folder as a whole: readers see the old one or the new one."""
        write_bytes(self.path / name, text.encode())
        return self.path / name

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to `metrics.jsonl`; it is on disk when this returns."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(to_json(record, indent=None) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """The records so far; a last line that a crash cut short is left out with a warning."""
        file = self.path / "metrics.jsonl"
        lines = (
            file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
        )
        records = []
        for number, line in enumerate(lines, 1):
            try:
                records.append(dict(json.loads(line)))
            except (ValueError, TypeError, RecursionError):
                warnings.warn(f"{file}: line {number} is cut short and left out", stacklevel=2)
        return records

    def drop_metrics_after(self, epoch: int) -> None:
        """Forget records of epochs later than `epoch`: a resumed run writes them again."""
        kept = [r for r in self.metrics() if r.get("epoch", epoch) <= epoch]
        lines = [to_json(record, indent=None) + "\n" for record in kept]
        write_bytes(self.path / "metrics.jsonl", "".join(lines).encode())

    def save_checkpoint(
        self,
        epoch: int,
        modules: Mapping[str, nn.Module],
        state: Mapping[str, Any],
        batches: int = 0,
    ) -> Path:
        """Keep the state after an epoch, or in the middle of the next; the last two checkpoints stay.

        It is on disk, whole, before an older one goes.

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
            OSError: If it cannot be written, as on a full disk; older checkpoints are then as they were.
        """
        check_plain(dict(state), "state")
        place = self.path / "checkpoints"
        place.mkdir(exist_ok=True)
        for stale in place.glob(f"{UNFINISHED}*"):
            shutil.rmtree(stale)
        written = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=place))
        try:
            for name, module in modules.items():
                write_tensors(written / f"{name}.safetensors", module, source_hash(module))
            write_state(written / "state.pt", {**state, "epoch": epoch, "batches": batches})
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(written, ignore_errors=True)
            raise OSError(
                f"expected to write a checkpoint of {self.path}, got: {error}; the one before is kept: make room and "
                "go on from it with resume=True (--resume)"
            ) from error
        final = place / (f"epoch_{epoch:06d}" + (f"_batch_{batches:06d}" if batches else ""))
        if final.exists():
            shutil.rmtree(final)
        os.replace(written, final)
        sync_folder(place)
        kept = self._checkpoints()
        newer = kept.index(final)  # they could not be read when the run went on from an older one
        for other in kept[:newer] + kept[newer + KEPT_CHECKPOINTS :]:
            shutil.rmtree(other)
        return final

    def load_checkpoint(self, modules: Mapping[str, nn.Module]) -> dict[str, Any] | None:
        """Load the newest checkpoint that can be read into `modules`.

        Arguments:
            modules: Name -> module, as they were saved; none is touched before all have been read.

        Returns:
            The state that was saved, with its `epoch`; None if no checkpoint was ever written.

        Raises:
            ValueError: If the weights do not fit the modules, or no checkpoint can be read.
        """
        checkpoints = self._checkpoints()
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
            for name, module in modules.items():
                check_fits(weights[name], module, folder / f"{name}.safetensors")
            for name, module in modules.items():
                warn_if_changed(folder / f"{name}.safetensors", module, source_hash(module))
                module.load_state_dict(weights[name])
            return dict(state)
        if checkpoints:
            raise ValueError(
                f"expected a readable checkpoint in {self.path / 'checkpoints'}, got "
                f"{len(checkpoints)} that cannot be read; start again in another folder"
            )
        return None

    def _checkpoints(self) -> list[Path]:
        """Finished checkpoints, newest first."""
        place = self.path / "checkpoints"
        found = place.iterdir() if place.exists() else []
        places = {p: match for p in found if (match := CHECKPOINT.fullmatch(p.name))}
        return sorted(places, key=lambda p: [int(n or 0) for n in places[p].groups()], reverse=True)


def save(path: str | os.PathLike[str], story: nn.Module, guide: nn.Module | None = None) -> None:
    """Write the weights of a story, and of its guide, as safetensors files.

    Arguments:
        path: A folder, made if need be; it gets `story.safetensors` and `guide.safetensors`.
        story: The story.
        guide: Its guide.
    """
    folder = Path(path).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in (("story", story), ("guide", guide)):
        if module is not None:
            write_tensors(folder / f"{name}.safetensors", module, source_hash(module))


def load(path: str | os.PathLike[str], story: nn.Module, guide: nn.Module | None = None) -> None:
    """Read weights that `save` wrote into a story, and into its guide, and leave both in evaluation mode.

    A warning says where the source of either has changed since.

    Arguments:
        path: The folder.
        story: A story built as the saved one was.
        guide: A guide built as the saved one was.

    Raises:
        ValueError: If a file is missing or damaged, or a tensor is missing, unknown, or of another
            shape or type; then no module has been touched.
    """
    folder = Path(path).expanduser()
    pairs = [("story", story)] + ([] if guide is None else [("guide", guide)])
    weights = {name: read_tensors(folder / f"{name}.safetensors") for name, _ in pairs}
    for name, module in pairs:
        check_fits(weights[name], module, folder / f"{name}.safetensors")
    for name, module in pairs:
        warn_if_changed(folder / f"{name}.safetensors", module, source_hash(module))
        module.load_state_dict(weights[name])
        module.eval()


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"expected the config of a run in {file}, got: {error}") from error


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = {"torch": "torch", "pyro": "pyro-ppl", "ppvae": "ppvae"}
    return {"python": platform.python_version()} | {k: _version(v) for k, v in names.items()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "0.0.0"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
