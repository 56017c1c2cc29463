r"""Stories by name or path: the gallery that travels with the package, and files of the user's own.

`ppvae.stories.load("vae", data)` builds one for rows; the classes of the gallery are attributes:
`ppvae.stories.VAE`.
"""

__all__ = [
    "example_of",
    "example_rows",
    "gallery_folder",
    "load",
    "simulated",
    "story_class",
    "story_names",
]

import ast
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data import SIMULATED, Request, Rows, Stream, as_rows, load_request, parse_request
from ppvae.data.request import apply_request
from ppvae.data.splits import split_indices
from ppvae.listing import gallery_folder, story_names
from ppvae.options import did_you_mean
from ppvae.story import seeded, simulate
from ppvae.story.validation import parent_sites

DEFAULT_DATA = "digits"
NUM_SIMULATED = 1000
HELD_OUT = {"valid": 0.1, "test": 0.1}
SEED = 0  # of the simulated rows, and of the story that they come from


def load(spec: str, data: Any = None, /, **options: Any) -> nn.Module:
    """Build a story for rows like `data`.

    Arguments:
        spec: A gallery name (`vae`), a file (`my_story.py`), or a class in a file
            (`my_story.py:MyStory`).
        data: Rows that tell the shapes, anything that `ppvae.data.as_rows` takes; None builds the
            story from its options.
        options: Arguments of the story's constructor.

    Returns:
        The story, built by its `from_data(batch, **options)` where it has one and there are data.

    Raises:
        ValueError: If there is no such story, file or class, or an option is unknown.
    """
    cls = story_class(spec)
    build = None if data is None else getattr(cls, "from_data", None)
    signature = inspect.signature(build or cls)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    known = [n for n in signature.parameters if not (build and n == "batch")]
    unknown = sorted(set(options) - set(known))
    if unknown and not takes_any:
        how = "; give its from_data(batch) the arguments that it is to take" if build else ""
        hint = did_you_mean(unknown[0], known)
        raise ValueError(
            f"story '{spec}': expected options among {known}; got {unknown}{hint}{how}"
        )
    batch = {} if data is None else _batch_of(data)
    try:
        return build(batch, **options) if build else cls(**options)
    except (TypeError, RuntimeError, KeyError, IndexError) as error:
        raise ValueError(
            f"story '{spec}' could not be built for data with the keys {list(batch)} and the "
            f"options {options}: "
            f"{error}"
        ) from error


def _batch_of(data: Any) -> dict[str, Tensor]:
    if isinstance(data, Mapping) and all(isinstance(v, Tensor) for v in data.values()):
        return dict(data)
    return dict(as_rows(data).binarize_once(seed=0).tensors)


def __getattr__(name: str) -> Any:
    """A class of the gallery."""
    if name in (files := _gallery_classes()):
        return story_class(f"{files[name]}:{name}")
    raise AttributeError(f"module 'ppvae.stories' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, *_gallery_classes()]


@cache
def _gallery_classes() -> dict[str, Path]:
    """Class -> the file of the gallery that it is public in; nothing is run."""
    found: dict[str, Path] = {}
    for file in (gallery_folder() / f"{name}.py" for name in story_names()):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found |= dict.fromkeys(ast.literal_eval(node.value), file)
    return found


def story_class(spec: str) -> type[nn.Module]:
    """The class that a story's name or path means; its file is run.

    Raises:
        ValueError: If there is no such story, file or class.
    """
    path, _, wanted = spec.partition(":")
    file = Path(path)
    if not path.endswith(".py"):
        file = gallery_folder() / f"{path}.py"
        if path not in story_names():
            raise ValueError(
                f"expected a story among {', '.join(story_names())}, or a file such as "
                f"my_story.py; got '{spec}'"
                f"{did_you_mean(path, story_names())}"
            )
    elif not file.is_file():
        raise ValueError(f"expected a story's file, got '{path}', which does not exist")
    module = _run_file(file.resolve(), file.stat().st_mtime_ns)
    names = [wanted] if wanted else list(getattr(module, "__all__", [])) or list(vars(module))
    members: list[Any] = [getattr(module, n, None) for n in names]
    classes = [c for c in members if _is_story(c, module)]
    if len(classes) != 1:
        what = f"a class '{wanted}'" if wanted else "one story class"
        found = ", ".join(c.__name__ for c in classes) or "none"
        raise ValueError(
            f"expected {what} in {file.name}, got {found}; name it as {file.name}:ClassName"
        )
    return classes[0]


def example_of(spec: str) -> str:
    """The data that a story is tried on where none are named: its class's `example`, or digits."""
    return getattr(story_class(spec), "example", DEFAULT_DATA)


def example_rows(
    spec: str,
    data: str | None = None,
    *,
    binarize: Any = None,
    root: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Rows | Stream, Rows | Stream, Rows | Stream]:
    """The rows that a story is tried on, to train, to stop and to measure.

    Arguments:
        spec: The story, as in `load`.
        data: As in `parse_request`; None takes the story's own example.
        binarize: As in `ppvae.data.load`, in place of the request's own.
        root: Folder of the data sets, likewise.
        options: Arguments of the story's constructor, for rows that it generates itself.

    Returns:
        Rows for train, valid and test.
    """
    request = parse_request(example_of(spec) if data is None else data)
    if request.name == SIMULATED:
        return simulated(spec, request, options or {})
    train, val, test = (
        load_request(request, split, binarize=binarize, root=root)
        for split in ("train", "valid", "test")
    )
    return train, val, test


def simulated(spec: str, request: Request, options: Mapping[str, Any]) -> tuple[Rows, Rows, Rows]:
    """Rows that a story itself generates, in three splits: 80, 10 and 10 per cent.

    Arguments:
        spec: The story, as in `load`.
        request: How many rows to train on, and what to hide of them.
        options: Arguments of the story's constructor.

    Returns:
        Rows for train, valid and test: the sites that no other site depends on.

    Raises:
        ValueError: If the story cannot be made without data, or has covariates.
    """
    cls = story_class(spec)
    try:
        with seeded(SEED):
            story = cls(**options)
        n = NUM_SIMULATED if request.rows is None else round(request.rows / 0.8)
        drawn = simulate(story, n, seed=SEED)
        leaves = set(drawn) - parent_sites(story, {}, 2)
    except TypeError as error:
        raise ValueError(
            f"story '{spec}' could not generate rows of its own: {error}; name data for it "
            "with --data"
        ) from error
    seen = {k: v for k, v in drawn.items() if k in leaves and v.shape[:1] == (n,)}
    seen = {k: v if v.is_floating_point() else v.float() for k, v in seen.items()}
    index = split_indices(n, ("train", "valid", "test"), HELD_OUT, shuffled=False)
    parts = {
        split: Rows({k: v[torch.from_numpy(i)] for k, v in seen.items()}, name="simulated rows")
        for split, i in index.items()
    }
    request = replace(request, rows=None)
    train, val, test = (apply_request(request, part, split) for split, part in parts.items())
    return train, val, test


def _is_story(value: Any, module: ModuleType) -> bool:
    return (
        inspect.isclass(value)
        and issubclass(value, nn.Module)
        and value.__module__ == module.__name__
    )


@cache
def _run_file(file: Path, changed: int) -> ModuleType:
    """The module of a file, run once until the file is `changed`: its classes stay the same."""
    name = f"ppvae_story_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"expected a Python file, got '{file}'")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"story file '{file.name}' does not run: {error}") from error
    return module
