r"""What commands do before they measure: find data and story, build guides, train or load
weights."""

__all__ = [
    "Setup",
    "column",
    "console",
    "loss_of",
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
from ppvae.data import DATASETS, SIMULATED, Rows, Stream, load, parse_request, preview, to_batch
from ppvae.storage.weights import load as load_weights
from ppvae.stories import example_of, example_rows, load_story
from ppvae.story import check_data, seeded
from ppvae.training.devices import resolve_device
from ppvae.training.distributed import broadcast_object
from ppvae.training.fit import fit

WIDTH_OF_A_FILE = 160
ROWS_TO_LOOK_AT = 2000


@dataclass(frozen=True)
class Setup:
    """Data in its three splits, and an untrained story with its guides; `notes` say what was chosen unasked.

    `dreams` tells whether the story has nothing to learn and the rows are its own: it makes up fresh ones.
    """

    train: Rows | Stream
    val: Rows | Stream
    test: Rows | Stream
    story: nn.Module
    guides: dict[str, nn.Module]
    notes: tuple[str, ...] = ()
    dreams: bool = False


def prepare(
    story: str,
    data: str | None,
    guide_names: Sequence[str | None],
    *,
    data_root: Path | None,
    binarize: Any,
    options: Sequence[str] | None,
    seed: int,
    device: str,
) -> Setup:
    """Load data and story, build the guides, and check that all fit together.

    Without `data`, the story's own example is taken; a guide that is None becomes the next family that suits the
    story; either choice is noted.

    Raises:
        ValueError: At the first fault.
    """
    resolve_device(device)
    given = parse_options(options)
    notes = []
    if data is None:
        data = example_of(story)
        notes.append(f"data {data}: the example of {story}")
    train, val, test = example_rows(story, data, binarize=binarize, root=data_root, options=given)
    known = preview(train)
    few = dict(known.head(min(ROWS_TO_LOOK_AT, len(known))).binarize_once(seed=0).tensors)
    with seeded(seed):
        try:
            made = load_story(story, few, **given)
            for part in (train, val, test):
                check_data(made, to_batch(made, preview(part)))
        except ValueError as error:
            if not notes:
                raise
            raise ValueError(f"{error}; with {notes[0]}, name your own with --data") from error
        names = _named(guide_names, made, train)
        if None in guide_names:
            suit = (
                "guides {}: they suit the story"
                if len(names) > 1
                else "guide {}: it suits the story"
            )
            notes.append(suit.format(", ".join(names)))
        built: dict[str, nn.Module] = {}
        for typed in names:
            name, chosen = parse_named(typed)
            built[typed] = guides.build(name, made, train, **chosen)
    known_well = not any(p.requires_grad for p in made.parameters())
    dreams = known_well and parse_request(data).name == SIMULATED
    return Setup(train, val, test, made, built, tuple(notes), dreams)


def _named(guide_names: Sequence[str | None], story: nn.Module, data: Rows | Stream) -> list[str]:
    """Names of families; each None becomes the next that suits the story."""
    if None not in guide_names:
        return [n for n in guide_names if n is not None]
    several = len(guide_names) > 1  # are compared, which needs q*
    suited = guides.suggest(story, data, with_local=several)[: len(guide_names)]
    return list(suited)


def trained(
    setup: Setup, weights: Path | None, seed: int, device: str, **training: Any
) -> nn.Module:
    """The one guide of a setup, with its story, trained now or loaded from a run folder."""
    guide = next(iter(setup.guides.values()))
    if weights is None:
        print("training first, as no --weights were given", file=sys.stderr)
        given = {**loss_of(setup, None, None), **training}
        fit(setup.story, guide, setup.train, val=setup.val, seed=seed, device=device, **given)
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
    rows: Any = setup.test.head(min(num_rows, len(setup.test)))
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


def loss_of(setup: Setup, text: str | None, pairs: Sequence[str] | None) -> dict[str, Any]:
    """An objective as `NAME:OPTION=VALUE`, and further options, as the arguments of `fit`.

    Without one, `trace_elbo`, or `wake_sleep` where the guide can learn from fresh rows at every step, which is said.
    """
    if text is None and setup.dreams:
        text = "wake_sleep"
        print(
            "objective wake_sleep: the story has nothing to learn, and makes up fresh rows for the guide",
            file=sys.stderr,
        )
    name, options = parse_named(text or "trace_elbo")
    return {"objective": name, "objective_options": {**options, **parse_options(pairs)}}


def parse_named(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME` or `NAME:OPTION=VALUE`, of an objective or a guide, as a name and its options; further options follow further colons."""
    name, *pairs = text.split(":")
    return name, parse_options(pairs)


def run_path(given: Path | None, story: str, data: str | None, what: str) -> Path:
    """The run folder: as given, or a new one under `runs`."""
    if given is not None:
        return given
    words = [story, *([data] if data else [])]
    parts = [*(Path(word.partition(":")[0]).stem for word in words), what]
    now = broadcast_object(datetime.now().strftime("%Y%m%d-%H%M%S"))
    return Path("runs") / "-".join([*parts, now])


def console(setup: Setup | None = None) -> Console:
    """Where tables go, wide enough for them where there is no terminal to fit; first the notes of `setup`."""
    for note in () if setup is None else setup.notes:
        print(note, file=sys.stderr)
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE)
