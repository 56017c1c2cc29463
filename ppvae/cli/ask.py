r"""The commands that ask what is trained: `generate`, `reconstruct`, `impute`, `traverse`."""

__all__ = ["generate", "impute", "reconstruct", "traverse"]

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import ppvae
from ppvae.cli.options import Seed, Story, Subject, Words
from ppvae.cli.output import check_path, say, write_numbers, write_picture
from ppvae.cli.resolve import Pair, pair
from ppvae.config import option

if TYPE_CHECKING:
    from torch import Tensor

    from ppvae.data import Rows

NUM_PICTURES = 12
NUM_EMBEDDED = 300  # test rows that tell which latent numbers are in use
IMAGES_A_LINE = 8


@Parameter(name="*", group="Files")
@dataclass(frozen=True, kw_only=True)
class Files:
    """Where results are written."""

    out: Path | None = option(
        None, "PNG file, where the site x is a picture; else named after the command."
    )
    table: Path | None = option(
        None, "File of numbers: .npz, or .csv with one line a row; else named after the command."
    )

    def named(self, name: str) -> tuple[Path, Path]:
        """The two files, `name.png` and `name.npz` where none are given.

        Raises:
            ValueError: If one cannot be written.
        """
        check_path("--out", self.out, (".png",))
        check_path("--table", self.table, (".npz", ".csv"))
        return self.out or Path(f"{name}.png"), self.table or Path(f"{name}.npz")


Split = Annotated[
    Literal["train", "valid", "test", "all"],
    Parameter(help="Which rows; all keeps the order of a file."),
]
Count = Annotated[int | None, Parameter(help="Only the first so many rows.")]
Given = Annotated[
    Words,
    Parameter(
        help="Observed sites to hold at their data. Sites that others depend on are held anyway."
    ),
]


def generate(
    story: Story,
    *,
    n: Annotated[int, Parameter(help="Number of rows.")] = 32,
    out: Annotated[
        Path | None,
        Parameter(
            help="File to write, .png or .npz; else generated.png where rows are pictures, "
            "generated.npz where not."
        ),
    ] = None,
    seed: Seed = 0,
    subject: Subject = Subject(),
) -> None:
    """Draw new rows from a story: means of pixels as PNG, rows of any kind as arrays, NPZ."""
    check_path("--out", out, (".png", ".npz"))
    chosen = pair(story, subject)
    made = chosen.built.story
    like = ppvae.data.to_batch(made, chosen.test(n))
    shape = _picture_shape(like, out)
    path = out or Path("generated.npz" if shape is None else "generated.png")
    chosen.ready()
    covariates = ppvae.story.split_batch(made, like)[1]  # those of the first test rows
    n = len(next(iter(covariates.values()))) if covariates else n
    rows = ppvae.generate(made, n, seed=seed, mean=shape is not None, **covariates)
    if shape is None:
        write_numbers(path, {name: (rows | covariates)[name].detach() for name in like}, {})
        line = f"{n} rows of {', '.join(like)}: {path}"
    else:
        starts = range(0, n, IMAGES_A_LINE)
        drawn = {str(s + 1): rows["x"][s : s + IMAGES_A_LINE].detach() for s in starts}
        line = f"{n} {write_picture(path, drawn, '', shape)}"
    say(line, output=subject.output)


def reconstruct(
    story: Story,
    *,
    rows: Count = None,
    split: Split = "test",
    given: Given = (),
    num_particles: Annotated[int, Parameter(help="Draws of each row.")] = 20,
    files: Files = Files(),
    seed: Seed = 0,
    subject: Subject = Subject(),
) -> None:
    """Encode rows and decode them again: means of the observed sites."""
    picture, table = files.named("reconstructed")
    chosen = pair(story, subject)
    taken = _taken(chosen, split, rows)
    batch = ppvae.data.to_batch(chosen.built.story, taken)
    values, covariates = ppvae.story.split_batch(chosen.built.story, batch)
    parents = ppvae.story.validation.parent_sites(chosen.built.story, covariates, 2)
    held = dict.fromkeys([*given, *(name for name in values if name in parents)])
    ask = partial(
        ppvae.reconstruct, *chosen.modules,
        given=list(held), num_particles=num_particles, seed=seed,
    )  # fmt: skip
    ask(taken.head(1))  # an error shows before the training
    chosen.ready()
    found = ask(taken)
    write_numbers(table, found, {})
    shown = {"data": batch["x"], "decoded": found["x"]} if "x" in found else {}
    line = write_picture(picture, _first(shown), "Rows encoded and decoded again")
    numbers = f"numbers: {table} ({len(taken)} rows of {', '.join(found)})"
    say(line, numbers, output=subject.output)


def impute(
    story: Story,
    *,
    rows: Count = None,
    split: Split = "test",
    num_draws: Annotated[int, Parameter(help="Draws of each row.")] = 100,
    files: Files = Files(),
    seed: Seed = 0,
    subject: Subject = Subject(),
) -> None:
    """Fill missing values with the mean of draws, between the ends of a 90% interval."""
    from ppvae.predict import impute_point
    from ppvae.predict.impute import sites_with_missing

    picture, table = files.named("imputed")
    if num_draws < 1:
        raise ValueError(f"expected --num-draws of at least 1, got {num_draws}")
    chosen = pair(story, subject)
    taken = _taken(chosen, split, rows)
    batch = ppvae.data.to_batch(chosen.built.story, taken)
    holed = sites_with_missing(ppvae.story.check_data(chosen.built.story, batch), batch)
    chosen.ready()
    found = impute_point(*chosen.modules, taken, num_draws=num_draws, seed=seed)
    write_numbers(table, found, {})
    shown = {"data": batch["x"]} if "x_lower" in found else {}
    if shown:
        shown |= {"filled": found["x"], "5%": found["x_lower"], "95%": found["x_upper"]}
    line = write_picture(picture, _first(shown), "Missing pixels filled: mean, and 90% interval")
    counts = [f"{int(batch[n].isnan().sum())} of {batch[n].numel()} entries of {n}" for n in holed]
    say(line, f"numbers: {table} (filled {', '.join(counts)})", output=subject.output)


def traverse(
    story: Story,
    *,
    row: Annotated[int, Parameter(help="The test row to start at, counted from 0.")] = 0,
    max_dims: Annotated[int, Parameter(help="Latent dimensions to change, at most.")] = 10,
    num_steps: Annotated[int, Parameter(help="Values of each latent dimension.")] = 9,
    given: Given = (),
    files: Files = Files(),
    seed: Seed = 0,
    subject: Subject = Subject(),
) -> None:
    """Change a row along the latent dimensions that differ most between rows, one at a time."""
    from ppvae.diagnostics.finding import number_names
    from ppvae.predict import latent_traversals

    picture, table = files.named("traversed")
    chosen = pair(story, subject)
    taken = chosen.test(max(NUM_EMBEDDED, row + 1))

    def ask() -> Any:
        found = latent_traversals(
            *chosen.modules, taken,
            row=row, given=given, num_steps=num_steps, max_dims=max_dims, seed=seed,
        )  # fmt: skip
        values = ppvae.traverse(chosen.built.story, found.latents, seed=seed, **found.covariates)
        return found, values

    ask()  # an error shows before the training
    chosen.ready()
    found, values = ask()
    names = number_names(found.shapes)
    labels = [names[number] for number in found.dims.tolist()]
    write_numbers(table, values, {"changed": [label for label in labels for _ in range(num_steps)]})
    shown = {}
    if "x" in values:
        data = ppvae.data.to_batch(chosen.built.story, taken)["x"][row : row + 1]
        shown = {"data": data, **dict(zip(labels, values["x"].split(num_steps), strict=True))}
    title = f"Row {row}, one latent dimension at a time over 98% of its range in the story"
    line = write_picture(picture, shown, title)
    numbers = f"numbers: {table} ({num_steps} values of each of {', '.join(labels)})"
    say(line, numbers, output=subject.output)


def _picture_shape(like: Any, path: Path | None) -> Any:
    """Shape of one picture, or None where rows are to be written as arrays."""
    if path is not None and path.suffix == ".npz":
        return None
    try:
        if "x" not in like:
            raise ValueError(f"the rows have no picture 'x', only {', '.join(like)}.")
        return ppvae.plots.picture_shape(like["x"])
    except ValueError as reason:
        if path is None:
            return None
        raise ValueError(
            f"expected pictures for {path}, but {reason.args[0].rstrip('.')}; give an .npz "
            "file to --out"
        ) from None


def _taken(chosen: Pair, split: str, count: int | None) -> "Rows":
    """The rows that were asked for."""
    if count is not None and count < 1:
        raise ValueError(f"expected --rows of at least 1, got {count}")
    config, data = chosen.built.config, chosen.built.data
    held: Any = {"train": data.train, "valid": data.val}.get(split, data.test)
    if split == "all":
        request = ppvae.data.parse_request(config.data or "")
        if request.name == ppvae.data.SIMULATED:
            raise ValueError(
                "expected --split train, valid or test of rows that the story simulates, got all"
            )
        binarize: Any = config.binarize
        held = ppvae.data.load_request(
            replace(request, rows=None), "all", binarize=binarize, root=config.data_root
        )
    return held.head(min(count or len(held), len(held)))


def _first(rows: dict[str, "Tensor"]) -> dict[str, "Tensor"]:
    return {label: values[:NUM_PICTURES] for label, values in rows.items()}
