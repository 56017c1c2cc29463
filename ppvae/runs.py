r"""What was asked for, as plain data, and the folder of a run opened again in one line.

`config.json` of a run of the command line holds a `RunConfig`: enough to build story, guides and
rows anew.
"""

__all__ = ["Built", "Run", "RunConfig", "Splits", "build", "open_run", "read_config"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ppvae import guides as families
from ppvae.config import Config
from ppvae.data import SIMULATED, Rows, Stream, parse_request, preview, to_batch
from ppvae.options import did_you_mean
from ppvae.storage.league_folder import safe_names
from ppvae.storage.run_folder import SETUP, RunFolder
from ppvae.storage.run_folder import read_config as read_json
from ppvae.storage.weights import load as load_weights
from ppvae.stories import example_of, example_rows, load
from ppvae.story import check_data, seeded
from ppvae.training import History

PREVIEW_ROWS = 2000  # that a story may look at when it is built
WEIGHTS = "weights"  # folder of a comparison: in it one folder for each guide


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Story, data and guides as they were asked for.

    Arguments:
        story: As in `ppvae.stories.load`; files by their full path.
        story_options: Arguments of the story's constructor.
        data: As in `ppvae.data.parse_request`; None for the story's own example.
        data_root: Folder of the data sets.
        binarize: As in `ppvae.data.load`.
        guides: Label -> `{"family": name, "options": {...}}`.
    """

    story: str
    story_options: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    data_root: str | None = None
    binarize: str | None = None
    guides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Splits(NamedTuple):
    """Rows to train on, to stop training by, and to measure on."""

    train: Rows | Stream
    val: Rows | Stream
    test: Rows | Stream


@dataclass(frozen=True)
class Built:
    """An untrained story with its guides and rows.

    Arguments:
        config: What was asked for, with what was chosen where nothing was.
        story: The story.
        guides: Label -> guide.
        data: The rows.
        notes: What was chosen, in words.
    """

    config: RunConfig
    story: nn.Module
    guides: dict[str, nn.Module]
    data: Splits
    notes: tuple[str, ...] = ()

    @property
    def simulates(self) -> bool:
        """Whether the story has nothing to learn and can draw fresh rows: the data are its own."""
        learns = any(p.requires_grad for p in self.story.parameters())
        return not learns and parse_request(self.config.data or "").name == SIMULATED


def build(config: RunConfig, *, seed: int = 0, suggested: int = 0) -> Built:
    """Load the data, build story and guides, and check that the rows fit the story.

    Arguments:
        config: What is asked for.
        seed: Seed of the initial weights.
        suggested: Number of guides to choose where none is named.

    Raises:
        ValueError: At the first fault.
    """
    notes = []
    if config.data is None:
        config = config.replace(data=example_of(config.story))
        notes.append(f"data {config.data}: the example of {Path(config.story).name}")
    root = None if config.data_root is None else Path(config.data_root)
    data = Splits(
        *example_rows(
            config.story, config.data,
            binarize=config.binarize, root=root, options=config.story_options,
        )
    )  # fmt: skip
    known = preview(data.train)
    few = known.head(min(PREVIEW_ROWS, len(known))).binarize_once(seed=0).tensors
    with seeded(seed):
        try:
            story = load(config.story, few, **config.story_options)
            for part in data:
                check_data(story, to_batch(story, preview(part)))
        except ValueError as error:
            if not notes:
                raise
            raise ValueError(f"{error}; with {notes[0]}, name your own with --data") from error
        if not config.guides and suggested:
            names = families.suggest(story, data.train, with_local=suggested > 1)[:suggested]
            config = config.replace(guides={n: {"family": n, "options": {}} for n in names})
            plural = "guides {}: they suit" if len(names) > 1 else "guide {}: it suits"
            notes.append(f"{plural.format(', '.join(names))} the story")
        built: dict[str, nn.Module] = {
            label: families.build(guide["family"], story, data.train, **guide["options"])
            for label, guide in config.guides.items()
        }
    return Built(config, story, built, data, tuple(notes))


@dataclass(frozen=True)
class Run:
    """A trained run.

    Arguments:
        story: The story, in evaluation mode.
        guide: The guide, likewise.
        history: What happened in training.
        config: All that config.json holds.
        data: The rows: `data.train`, `data.val` and `data.test`.
    """

    story: nn.Module
    guide: nn.Module
    history: History
    config: dict[str, Any]
    data: Splits


def open_run(path: str | Path, guide: str | None = None) -> Run:
    """Open the folder of `ppvae fit`, or one guide of the folder of `ppvae compare`.

    Arguments:
        path: The folder.
        guide: Of a comparison, which guide.

    Returns:
        Story and guide with their weights, the history, config and data.

    Raises:
        ValueError: If it is no such folder, another version of ppvae wrote it, the training has
            not ended, or `guide` is missing or unknown.
    """
    path = Path(path).expanduser()
    config, weights = read_config(path, guide)
    built = build(config)
    (made,) = built.guides.values()
    load_weights(weights, built.story, made)
    training = path if weights == path else path / "trainings" / weights.name
    history = _read_history(_open_folder(training).metrics())
    return Run(built.story, made, history, _open_folder(path).config, built.data)


def read_config(path: Path, guide: str | None = None) -> tuple[RunConfig, Path]:
    """What a run folder says was asked for, with one guide, and the folder of the weights.

    Raises:
        ValueError: As `open_run`.
    """
    content = _open_folder(path).config
    if SETUP not in content:
        raise ValueError(
            f"expected a run folder of ppvae fit or compare, got '{path}', which a call from "
            "Python wrote: it does not say "
            "how story, data and guide are built; name them, with --data and --guide, and "
            f"give --weights {path}"
        )
    config = RunConfig.from_dict(content[SETUP])
    compared = "compare" in content
    folders = dict(zip(config.guides, safe_names(config.guides), strict=True))
    if guide is None and len(folders) == 1:
        guide = next(iter(folders))
    if guide is None:
        raise ValueError(
            f"expected the guide to take from the comparison in '{path}', got none; name one: "
            "--guide "
            f"{' or --guide '.join(folders)}"
        )
    label = next((n for n, folder in folders.items() if guide in (n, folder)), None)
    if label is None:
        raise ValueError(
            f"expected a guide of '{path}' among {', '.join(folders)}; got '{guide}'"
            f"{did_you_mean(guide, folders)}"
        )
    weights = path / WEIGHTS / folders[label] if compared else path
    if not (weights / "guide.safetensors").exists():
        verb = "compare" if compared else "fit"
        raise ValueError(
            f"expected a run that has been trained to its end, got '{path}'; go on with ppvae "
            f"{verb} ... --run-dir {path} "
            "--resume"
        )
    return config.replace(guides={label: config.guides[label]}), weights


def _open_folder(path: Path) -> RunFolder:
    if not (path / "config.json").is_file():
        inside = path.parent.name == WEIGHTS and path.is_dir()
        hint = f"; give {path.parent.parent} and --guide {path.name}" if inside else ""
        raise ValueError(
            f"expected the folder of a run, got '{path}', which has no config.json{hint}"
        )
    return RunFolder(path, read_json(path))


def _read_history(records: list[dict[str, Any]]) -> History:
    """The history of a training's records; the best epoch is that of validation, else the last."""
    scored = [r for r in records if r["val_elbo"] is not None]
    best = max(scored, key=lambda r: float(r["val_elbo"])) if scored else records[-1]
    seconds = sum(r["seconds"] for r in records)
    return History(records=records, seconds=seconds, best_epoch=best["epoch"])
