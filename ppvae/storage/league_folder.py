r"""What a comparison keeps on disk as it goes: stopped anywhere, it goes on to the same league.

`trainings/NAME` is the run folder of one training, `measured/NAME.safetensors` what a guide's
measurement has found so far. Guides are trained and measured one after the other; what is done is
read, the rest is done.
"""

__all__ = ["LeagueFolder", "open_league_folder", "safe_names"]

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppvae.storage.files import UNFINISHED
from ppvae.storage.run_folder import open_run_folder

# The training of a story that all guides share, and the certificate of its evidence.
SHARED = "story"
LONGEST_NAME = 100


class LeagueFolder:
    """Where each part of a comparison is kept; nowhere where there is no folder.

    Arguments:
        path: The folder, if any.
        names: Names of the guides.
    """

    def __init__(self, path: Path | None, names: Iterable[str]) -> None:
        self.path = path
        self.names = dict(zip([None, *names], safe_names([SHARED, *names]), strict=True))

    def make(self) -> None:
        """Make the folders of the parts, and take away what a kill left half written."""
        assert self.path is not None
        for name in self.names.values():
            (self.path / "trainings" / name).mkdir(parents=True, exist_ok=True)
        (self.path / "measured").mkdir(exist_ok=True)
        for stale in (self.path / "measured").glob(f"{UNFINISHED}*"):
            stale.unlink()

    def training(self, name: str | None = None) -> dict[str, Any]:
        """Options of `fit` for the training of a guide, or of the shared story."""
        if self.path is None:
            return {}
        return {"run_dir": self.path / "trainings" / self.names[name], "resume": True}

    def measurement(self, name: str | None = None) -> Path | None:
        """The file of a guide's measurement, or of the shared story's certificate."""
        return self.path and self.path / "measured" / f"{self.names[name]}.safetensors"


@contextmanager
def open_league_folder(
    run_dir: str | os.PathLike[str] | None,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
) -> Iterator[LeagueFolder]:
    """Hold the folder of a comparison for the length of the block.

    Arguments:
        run_dir: The folder; None keeps nothing. A `RunPath` adds its notes to `config.json`.
        settings: Of the comparison, with the names of its `guides`; the same wherever it goes on.
        resume: Whether it goes on with a comparison that has begun.

    Raises:
        ValueError: If another process holds it, it is no fresh folder, there is nothing to go on
            from, or the settings have changed.
    """
    if resume and (run_dir is None or not Path(run_dir).expanduser().is_dir()):
        path = None if run_dir is None else os.fspath(run_dir)
        raise ValueError(f"expected the folder of a comparison to go on from, got run_dir={path}")
    if run_dir is None:
        yield LeagueFolder(None, settings["guides"])
        return
    with open_run_folder(run_dir, "compare", settings, resume=resume) as folder:
        parts = LeagueFolder(folder.path, settings["guides"])
        parts.make()
        yield parts


def safe_names(names: Iterable[str]) -> list[str]:
    """Names that every file system takes, each once: `a:family=iaf` becomes `a-family-iaf`."""
    safe: list[str] = []
    for name in names:
        short = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:LONGEST_NAME] or "guide"
        taken = {other.lower() for other in safe}  # some file systems do not tell `A` from `a`
        numbers = (f"{short}-{number}" for number in range(2, len(safe) + 3))
        safe.append(next(n for n in (short, *numbers) if n.lower() not in taken))
    return safe
