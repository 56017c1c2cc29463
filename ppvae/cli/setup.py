r"""What commands do before they measure: find data and story, build guides, train or load
weights."""

__all__ = [
    "Setup",
    "column",
    "console",
    "parse_named",
    "parse_options",
    "prepare",
    "run_path",
    "trained",
]

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from ppvae import guides
from ppvae.data import DATASETS, Rows, load
from ppvae.fit import fit, resolve_device
from ppvae.gallery import load_story
from ppvae.runs import load as load_weights
from ppvae.story import check_data, seeded
from ppvae.weights import batch_for

WIDTH_OF_A_FILE = 160
ROWS_TO_LOOK_AT = 2000


@dataclass(frozen=True)
class Setup:
    """Data in its three splits, and an untrained story with its guides."""

    train: Rows
    val: Rows
    test: Rows
    story: nn.Module
    guides: dict[str, nn.Module]


def prepare(
    story: str,
    data: str,
    guide_names: Sequence[str],
    *,
    data_root: Path | None,
    binarize: Any,
    options: Sequence[str] | None,
    seed: int,
    device: str,
) -> Setup:
    """Load data and story, build the guides, and check that all fit together.

    Raises:
        ValueError: At the first fault.
    """
    resolve_device(device)
    train, val, test = (
        load(data, split=split, binarize=binarize, root=data_root)
        for split in ("train", "valid", "test")
    )
    few = dict(train.head(min(ROWS_TO_LOOK_AT, len(train))).frozen(seed=0).tensors)
    with seeded(seed):
        made = load_story(story, few, **parse_options(options))
        for part in (train, val, test):
            check_data(made, batch_for(made, part))
        built: dict[str, nn.Module] = {}
        for typed in guide_names:
            name, chosen = parse_named(typed)
            built[typed] = guides.build(name, made, train, **chosen)
    return Setup(train, val, test, made, built)


def trained(
    setup: Setup, weights: Path | None, seed: int, device: str, **training: Any
) -> nn.Module:
    """The one guide of a setup, with its story, trained now or loaded from a run folder."""
    guide = next(iter(setup.guides.values()))
    if weights is None:
        print("training first, as no --weights were given", file=sys.stderr)
        fit(setup.story, guide, setup.train, val=setup.val, seed=seed, device=device, **training)
    else:
        load_weights(weights, setup.story, guide)
        for module in (setup.story, guide):
            module.to(resolve_device(device)).eval()
    return guide


def column(name: str, data: str, setup: Setup, data_root: Path | None, num_rows: int) -> Tensor:
    """A number, or the class, of each of the first test rows, `(B,)`.

    Raises:
        ValueError: If the data have none of that name, or more than one number a row.
    """
    rows: Any = setup.test
    labels = name == "class" and data in DATASETS
    if labels:
        rows = load(data, split="test", root=data_root, labels=True)
        name = "y"
    tensors = rows.tensors
    if name not in tensors or tensors[name].dim() > 1:
        single = sorted(k for k, v in tensors.items() if v.dim() == 1)
        raise ValueError(
            f"expected one number a row to hold the rows against, got '{name}'; the data have {single or 'none'}"
        )
    values = tensors[name][:num_rows]
    return values.long() if labels else values


def parse_options(pairs: Sequence[str] | None) -> dict[str, Any]:
    """`NAME=VALUE` words as options: the value is JSON where it is JSON, else a string."""
    options = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"expected NAME=VALUE, got '{pair}'")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
    return options


def parse_named(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME` or `NAME:OPTION=VALUE`, of an objective or a guide, as a name and its options; further options follow further colons."""
    name, *pairs = text.split(":")
    return name, parse_options(pairs)


def run_path(given: Path | None, story: str, data: str, what: str) -> Path:
    """The run folder: as given, or a new one under `runs`."""
    if given is not None:
        return given
    parts = [Path(story.partition(":")[0]).stem, Path(data.partition(":")[0]).stem, what]
    return Path("runs") / "-".join([*parts, datetime.now().strftime("%Y%m%d-%H%M%S")])


def console() -> Console:
    """Where tables go; wide enough for them where there is no terminal to fit."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE)
