r"""A run folder in the place of a story: `config.json` remembers what `ppvae fit` was told, so that its name is enough."""

__all__ = ["recall", "remember"]

import json
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

# What is remembered -> the option that takes it up again.
OPTIONS = {
    "data": "--data",
    "guide": "--guide",
    "binarize": "--binarize",
    "data_root": "--data-root",
    "options": "--set",
}


def remember(story: str, **told: Any) -> dict[str, Any]:
    """What a later command needs to build story, guide and data again; files by their full path.

    Arguments:
        story: As it was typed.
        told: Values of `OPTIONS`, by name.
    """
    return {"story": _full(story), **{name: _full(value) for name, value in told.items()}}


def recall(words: Sequence[str], commands: Sequence[Callable[..., None]]) -> list[str]:
    """Put what a run folder remembers in its place: `gaps RUN` becomes `gaps vae --data digits ... --weights RUN`.

    Options that were typed stand after those that are remembered, and win.

    Arguments:
        words: What was typed, the command first.
        commands: All commands; those with an option `--weights` measure what was trained, and take a run folder.

    Raises:
        ValueError: If the folder does not say what was trained.
    """
    takers = {c.__name__: c for c in commands if "weights" in signature(c).parameters}
    if len(words) < 2 or words[0] not in takers or not Path(words[1]).is_dir():
        return list(words)
    command, run, *typed = words
    told = _told(Path(run))
    if not (Path(run) / "story.safetensors").exists():
        raise ValueError(
            f"expected a run that has been trained to its end, got '{run}', which has not; go on with ppvae fit ... --run-dir "
            f"{run} --resume"
        )
    taken = signature(takers[command]).parameters
    given = [command, told["story"], "--weights", run]
    for name, option in OPTIONS.items():
        value = told.get(name) if name in taken else None
        for one in value if isinstance(value, list) else [value]:
            given += [] if one is None else [option, one]
    return [*given, *typed]


def _told(run: Path) -> dict[str, Any]:
    file = run / "config.json"
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["setup"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"expected a story, or a folder that ppvae fit wrote, got '{run}', whose config.json does not say what was "
            f"trained; name story, --data and --guide, and give --weights {run}"
        ) from error
    return told


def _full(value: Any) -> Any:
    """Files and folders, also of `file.py:ClassName`, as they are found from anywhere; all else as it is."""
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    if not isinstance(value, str):
        return value
    name, colon, rest = value.partition(":")
    return f"{Path(name).resolve()}{colon}{rest}" if Path(name).is_file() else value
