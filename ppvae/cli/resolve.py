r"""Before a command measures: find story, guides and rows, then train or load the weights."""

__all__ = ["Pair", "pair", "print_notes", "resolve"]

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ppvae
from ppvae.cli.options import Data, Subject, as_train_config, parse_named
from ppvae.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from ppvae.data import Rows
    from ppvae.runs import Built, RunConfig


@dataclass(frozen=True)
class Pair:
    """A story, one guide and the rows, before or after training.

    Arguments:
        built: What was built.
        weights: Folder of the weights; None to train.
        subject: What was typed.
    """

    built: "Built"
    weights: Path | None
    subject: Subject

    @property
    def modules(self) -> "tuple[nn.Module, nn.Module]":
        """Story and guide."""
        return self.built.story, next(iter(self.built.guides.values()))

    def test(self, rows: int) -> "Rows":
        """The first so many test rows, or all that there are.

        Raises:
            ValueError: If none are asked for.
        """
        if rows < 1:
            raise ValueError(f"expected --rows of at least 1, got {rows}")
        held = self.built.data.test
        return held.head(min(rows, len(held)))

    def ready(self) -> None:
        """Load the weights, or train where there are none; both modules are on the device then."""
        from ppvae.training.devices import resolve_device

        train = self.subject.train
        if self.weights is not None:
            ppvae.load(self.weights, *self.modules)
            for module in self.modules:
                module.to(resolve_device(train.device))
            print_notes(self.built)
            return
        print_notes(self.built)
        print("training first, as there are no weights", file=sys.stderr)
        progress = self.subject.output.shows_progress
        config = as_train_config(train, simulates=self.built.simulates, progress=progress)
        data = self.built.data
        ppvae.fit(*self.modules, data.train, val=data.val, config=config)


def pair(story: str, subject: Subject) -> Pair:
    """One guide on a story: as typed, or as a run folder says; options that are typed come first.

    Raises:
        ValueError: At the first fault.
    """
    data, which = subject.data, subject.guide
    if not Path(story).is_dir():
        labels = [which.guide] if which.guide else []
        built = resolve(story, data, labels, subject.train, suggested=1)
        return Pair(built, which.weights, subject)
    config, weights = ppvae.runs.read_config(Path(story), which.guide)
    typed = {"data": data.data, "data_root": data.data_root, "binarize": data.binarize}
    changed: dict[str, Any] = {name: _full(v) for name, v in typed.items() if v is not None}
    if data.set:
        changed["story_options"] = {**config.story_options, **data.set}
    built = _build(config.replace(**changed), subject.train, 1)
    return Pair(built, which.weights or weights, subject)


def resolve(
    story: str, given: Data, guides: Sequence[str], train: TrainConfig, *, suggested: int = 0
) -> "Built":
    """Story, guides and rows as typed.

    Arguments:
        story: A name or a file.
        given: Rows and options of the story.
        guides: `NAME[:OPTION=VALUE]` each.
        train: For the seed of the initial weights, and the device, which must exist.
        suggested: Number of guides to choose where none is named.

    Raises:
        ValueError: At the first fault.
    """
    _refuse_folder(story)
    parsed = {label: parse_named(label) for label in guides}
    config = ppvae.runs.RunConfig(
        story=_full(story), story_options=dict(given.set), data=_full(given.data),
        data_root=_full(given.data_root), binarize=given.binarize,
        guides={label: {"family": n, "options": o} for label, (n, o) in parsed.items()},
    )  # fmt: skip
    return _build(config, train, suggested)


def print_notes(built: "Built") -> None:
    """Say on standard error what was chosen where nothing was asked for."""
    for note in built.notes:
        print(note, file=sys.stderr)


def _build(config: "RunConfig", train: TrainConfig, suggested: int) -> "Built":
    from ppvae.training.devices import resolve_device

    resolve_device(train.device)  # it must exist
    return ppvae.runs.build(config, seed=train.seed, suggested=suggested)


def _refuse_folder(story: str) -> None:
    path = Path(story)
    if path.is_dir():
        raise ValueError(
            f"expected a story to train, got the folder '{story}'; name the story, as in its "
            "config.json"
        )
    if len(path.parts) > 1 and path.suffix != ".py" and ".py:" not in story:
        raise ValueError(
            f"expected a story or the folder of a run, got '{story}', which does not exist"
        )


def _full(value: Any) -> Any:
    """Files and folders, also of `file.py:ClassName`, by their full path; all else as it is."""
    if value is None:
        return None
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    name, colon, rest = str(value).partition(":")
    return f"{Path(name).resolve()}{colon}{rest}" if Path(name).is_file() else value
