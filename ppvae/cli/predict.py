r"""The commands that ask a trained story and guide: `reconstruct`, `impute`, `traverse`."""

__all__ = ["impute", "reconstruct", "traverse"]

import sys
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from typer import Option

from ppvae.cli.arguments import (
    BatchSize,
    Binarize,
    Data,
    DataRoot,
    Device,
    Epochs,
    Guide,
    LearningRate,
    Particles,
    Quiet,
    Seed,
    Set,
    Story,
    Weights,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ppvae.cli.setup import Setup
    from ppvae.data import Rows
    from ppvae.predict import LatentTraversals

NUM_PICTURES = 12
NUM_EMBEDDED = 300  # test rows that tell which latent numbers are in use


class Split(StrEnum):
    """Which rows of the data are taken."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"
    ALL = "all"


Out = Annotated[Path, Option("--out", help="The PNG file to write, where the site x is a picture.")]
Table = Annotated[
    Path, Option("--table", help="The file of numbers to write: .npz, or .csv with one line a row.")
]
Count = Annotated[int | None, Option("--rows", min=1, help="Only the first so many rows.")]
Part = Annotated[Split, Option("--split", help="Which rows; all keeps the order of a file.")]
Given = Annotated[
    list[str] | None,
    Option(
        "--given",
        metavar="SITE",
        help="Observed site to hold at its data; may be repeated. Sites that others depend on are held unasked.",
    ),
]


def reconstruct(
    story: Story,
    data: Data = None,
    rows: Count = None,
    split: Part = Split.TEST,
    given: Given = None,
    particles: Particles = 20,
    path: Out = Path("reconstructed.png"),
    table: Table = Path("reconstructed.npz"),
    guide: Guide = None,
    weights: Weights = None,
    epochs: Epochs = 100,
    batch_size: BatchSize = 100,
    lr: LearningRate = 1e-3,
    seed: Seed = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    binarize: Binarize = None,
    options: Set = None,
    no_progress: Quiet = False,
) -> None:
    """Encode rows and decode them again: means of the observed sites."""
    import ppvae
    from ppvae.cli import setup as parts
    from ppvae.cli.writing import check_files, write_numbers, write_picture
    from ppvae.data import to_batch

    check_files(path, table)
    setup = parts.prepare(
        story, data, [guide], data_root=data_root, binarize=binarize, options=options,
        seed=seed, device=device,
    )  # fmt: skip
    taken = _taken(setup, split, rows, story, data, binarize, data_root)
    batch = to_batch(setup.story, taken)
    ask = partial(
        ppvae.reconstruct, setup.story,
        given=_held(setup.story, batch, given), num_particles=particles, seed=seed,
    )  # fmt: skip
    ask(
        next(iter(setup.guides.values())), taken.head(1)
    )  # what is at fault shows before the training
    built = parts.trained(
        setup, weights, seed, device,
        epochs=epochs, batch_size=batch_size, lr=lr, progress=_shows_progress(no_progress),
    )  # fmt: skip
    found = ask(built, taken)
    write_numbers(table, found, {})
    shown = {"data": batch["x"], "decoded": found["x"]} if "x" in found else {}
    said = write_picture(path, _first(shown), "Rows encoded and decoded again")
    _say(setup, said, f"numbers: {table} ({len(taken)} rows of {', '.join(found)})")


def impute(
    story: Story,
    data: Data = None,
    rows: Count = None,
    split: Part = Split.TEST,
    draws: Annotated[int, Option("--draws", min=1, help="Draws of each row.")] = 100,
    path: Out = Path("imputed.png"),
    table: Table = Path("imputed.npz"),
    guide: Guide = None,
    weights: Weights = None,
    epochs: Epochs = 100,
    batch_size: BatchSize = 100,
    lr: LearningRate = 1e-3,
    seed: Seed = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    binarize: Binarize = None,
    options: Set = None,
    no_progress: Quiet = False,
) -> None:
    """Fill missing values with the mean of draws, between the ends of a 90% interval."""
    from ppvae.cli import setup as parts
    from ppvae.cli.writing import check_files, write_numbers, write_picture
    from ppvae.data import to_batch
    from ppvae.predict import impute_point
    from ppvae.predict.impute import sites_with_missing
    from ppvae.story import check_data

    check_files(path, table)
    setup = parts.prepare(
        story, data, [guide], data_root=data_root, binarize=binarize, options=options,
        seed=seed, device=device,
    )  # fmt: skip
    taken = _taken(setup, split, rows, story, data, binarize, data_root)
    batch = to_batch(setup.story, taken)
    holed = sites_with_missing(check_data(setup.story, batch), batch)
    built = parts.trained(
        setup, weights, seed, device,
        epochs=epochs, batch_size=batch_size, lr=lr, progress=_shows_progress(no_progress),
    )  # fmt: skip
    found = impute_point(setup.story, built, taken, num_draws=draws, seed=seed)
    write_numbers(table, found, {})
    shown = {"data": batch["x"]} if "x_lower" in found else {}
    if shown:
        shown |= {"filled": found["x"], "5%": found["x_lower"], "95%": found["x_upper"]}
    said = write_picture(path, _first(shown), "Missing pixels filled: mean, and 90% interval")
    counts = [f"{int(batch[n].isnan().sum())} of {batch[n].numel()} entries of {n}" for n in holed]
    _say(setup, said, f"numbers: {table} (filled {', '.join(counts)})")


def traverse(
    story: Story,
    data: Data = None,
    row: Annotated[
        int, Option("--row", min=0, help="The test row to start at, counted from 0.")
    ] = 0,
    numbers: Annotated[
        int, Option("--numbers", min=1, help="Latent numbers to walk along, at most.")
    ] = 10,
    steps: Annotated[int, Option("--steps", min=2, help="Stops of each walk.")] = 9,
    given: Given = None,
    path: Out = Path("traversed.png"),
    table: Table = Path("traversed.npz"),
    guide: Guide = None,
    weights: Weights = None,
    epochs: Epochs = 100,
    batch_size: BatchSize = 100,
    lr: LearningRate = 1e-3,
    seed: Seed = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    binarize: Binarize = None,
    options: Set = None,
    no_progress: Quiet = False,
) -> None:
    """Walk from a row along the latent numbers that tell rows apart, one at a time: what does each of them do?"""
    import ppvae
    from ppvae.cli import setup as parts
    from ppvae.cli.writing import check_files, write_numbers, write_picture
    from ppvae.data import to_batch
    from ppvae.diagnostics.finding import number_names
    from ppvae.predict import latent_traversals

    check_files(path, table)
    setup = parts.prepare(
        story, data, [guide], data_root=data_root, binarize=binarize, options=options,
        seed=seed, device=device,
    )  # fmt: skip
    taken = setup.test.head(min(max(NUM_EMBEDDED, row + 1), len(setup.test)))
    batch = to_batch(setup.story, taken)
    choose = partial(
        latent_traversals, setup.story,
        row=row, given=given or [], num_steps=steps, max_dims=numbers, seed=seed,
    )  # fmt: skip

    def walk(built: "nn.Module") -> tuple["LatentTraversals", dict[str, "Tensor"]]:
        found = choose(built, taken)
        return found, ppvae.traverse(setup.story, found.latents, seed=seed, **found.covariates)

    walk(next(iter(setup.guides.values())))  # what is at fault shows before the training
    built = parts.trained(
        setup, weights, seed, device,
        epochs=epochs, batch_size=batch_size, lr=lr, progress=_shows_progress(no_progress),
    )  # fmt: skip
    found, walked = walk(built)
    names = number_names(found.shapes)
    labels = [names[number] for number in found.dims.tolist()]
    write_numbers(table, walked, {"walked": [label for label in labels for _ in range(steps)]})
    shown = {}
    if "x" in walked:
        pieces = walked["x"].split(steps)
        shown = {"data": batch["x"][row : row + 1], **dict(zip(labels, pieces, strict=True))}
    title = f"Walks from row {row} along one latent number each, over 98% of the story's own"
    said = write_picture(path, shown, title)
    _say(setup, said, f"numbers: {table} ({steps} stops along each of {', '.join(labels)})")


def _taken(
    setup: "Setup",
    split: Split,
    count: int | None,
    story: str,
    data: str | None,
    binarize: str | None,
    root: Path | None,
) -> "Rows":
    """The rows that were asked for."""
    from ppvae.data import SIMULATED, load_request, parse_request
    from ppvae.stories import example_of

    held = {Split.TRAIN: setup.train, Split.VALID: setup.val}.get(split, setup.test)
    if split is Split.ALL:
        request = parse_request(data or example_of(story))
        if request.name == SIMULATED:
            raise ValueError(
                "expected --split train, valid or test of rows that the story simulates, got all"
            )
        every = replace(request, rows=None)
        held = load_request(every, "all", binarize=cast("Any", binarize), root=root)
    return held.head(min(count or len(held), len(held)))


def _held(story: "nn.Module", batch: dict[str, "Tensor"], given: list[str] | None) -> list[str]:
    """Observed sites to hold at their data: those that were named, and those that others depend on."""
    from ppvae.story import split_batch
    from ppvae.story.validation import parent_sites

    values, covariates = split_batch(story, batch)
    parents = parent_sites(story, covariates, 2)
    return [*(given or []), *(n for n in values if n in parents and n not in (given or []))]


def _first(rows: dict[str, "Tensor"]) -> dict[str, "Tensor"]:
    return {label: values[:NUM_PICTURES] for label, values in rows.items()}


def _shows_progress(no_progress: bool) -> bool:
    return sys.stdout.isatty() and not no_progress


def _say(setup: "Setup", *lines: str) -> None:
    from ppvae.cli.setup import console

    out = console(setup)
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True, markup=False)
