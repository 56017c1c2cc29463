r"""The run folder: what one training leaves on disk; a crash never spoils what was there.

`config.json` says what was run, `metrics.jsonl` grows by a line an epoch, `checkpoints/` holds the
last two states, also from the middle of an epoch.
"""

__all__ = ["FORMAT", "RunFolder", "RunPath", "open_run_folder", "read_config", "versions"]

import json
import os
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ppvae.storage.checkpoints import Checkpoints
from ppvae.storage.files import UNFINISHED, to_json, write_bytes
from ppvae.storage.lock import LOCK, locked

FORMAT = 2  # of run folders; 1 is that of ppvae before 0.2
# The part of the notes that the command line keeps; where files lie may differ between machines.
SETUP, PLACES = "setup", ("story", "data", "data_root")


@dataclass(frozen=True)
class RunPath(os.PathLike[str]):
    """A path for a run folder, with notes for its `config.json`: anything that JSON holds.

    `fit` and `compare` take one as `run_dir`.
    """

    path: str | os.PathLike[str]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __fspath__(self) -> str:
        return os.fspath(self.path)


class RunFolder:
    """One run on disk; made by `RunFolder.create`.

    Attributes:
        path: The folder.
        config: What `config.json` holds.
        checkpoints: The states that a training can go on from.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, config
        self.checkpoints = Checkpoints(path / "checkpoints")

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], *, resume: bool = False
    ) -> "RunFolder":
        """Make the folder, or go on with an old one.

        Arguments:
            path: Where; parents are made.
            config: Settings, anything that JSON holds; format, versions and time are added.
            resume: Whether an existing folder is continued; its own config is kept then.

        Raises:
            ValueError: If it holds files and `resume` is False, if there is nothing to resume in a
                folder that holds files, if an earlier version of ppvae wrote it, or if the config
                is not JSON.
        """
        path = Path(path).expanduser()
        if not _files_in(path, resume):  # the config first: with it, the folder can be resumed
            created = datetime.now(UTC).isoformat(timespec="seconds")
            added = {"format": FORMAT, "versions": versions(), "created": created}
            text = to_json({**config, **added})
            path.mkdir(parents=True, exist_ok=True)
            write_bytes(path / "config.json", text.encode())
        return cls(path, read_config(path))

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to `metrics.jsonl`; it is on disk when this returns."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(to_json(record, indent=None) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """The records so far; a last line that a crash cut short is left out with a warning."""
        file = self.path / "metrics.jsonl"
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        records = []
        for number, line in enumerate(text.splitlines(), 1):
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


def _files_in(path: Path, resume: bool) -> list[str]:
    """Names of the files in a folder; refused where it holds any and the run does not go on."""
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
    return held


@contextmanager
def open_run_folder(
    path: str | os.PathLike[str],
    kind: str,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    may_change: Sequence[str] = (),
) -> Iterator[RunFolder]:
    """Hold a run folder for the length of the block.

    Arguments:
        path: The folder; a `RunPath` adds its notes to `config.json`.
        kind: `fit` or `compare`: under which name `config.json` keeps the settings.
        settings: Where the run goes on with one that has begun, they must be that run's.
        resume: Whether it does.
        may_change: Settings that may differ.

    Raises:
        ValueError: If another process holds it, it is in use, or the settings have changed.
    """
    config = {**getattr(path, "notes", {}), kind: settings}
    path = Path(path).expanduser()
    _files_in(path, resume)  # a folder of something else is not even locked
    with locked(path):
        folder = RunFolder.create(path, config, resume=resume)
        for part, free in ((kind, may_change), (SETUP, PLACES)):
            _check_same(folder.config.get(part, {}), config.get(part, {}), free)
        yield folder


def read_config(path: Path) -> dict[str, Any]:
    """What `config.json` of a run folder holds.

    Raises:
        ValueError: If it cannot be read, or is of another format.
    """
    file = path / "config.json"
    try:
        config = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"expected the config of a run in {file}, got: {error}") from error
    found = config.get("format", 1)
    if found != FORMAT:
        raise ValueError(
            f"expected a run folder of format {FORMAT}, got {path} of format {found}, which "
            "another version of ppvae wrote "
            f"({config.get('versions', {}).get('ppvae', 'unknown')}); go on with that version, or "
            "train anew in another folder"
        )
    return config


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for name, package in (("torch", "torch"), ("pyro", "pyro-ppl"), ("ppvae", "ppvae")):
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "0.0.0"
    return found


def _check_same(
    old: Mapping[str, Any], new: Mapping[str, Any], may_change: Sequence[str] = ()
) -> None:
    """Refuse to resume a run otherwise than it began, naming each setting that changed."""
    new = json.loads(to_json(new))  # tuples become lists, as they did in the file
    changed = [k for k, v in new.items() if k not in may_change and k in old and old[k] != v]
    if changed:
        found = ", ".join(f"{k} {old[k]!r} -> {new[k]!r}" for k in changed)
        raise ValueError(
            f"expected the settings with which the run began, got {found}; resume with the same "
            "ones, or start another run folder"
        )
