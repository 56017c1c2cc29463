r"""The commands about stories: `check`, `generate`, `list`, `new`."""

__all__ = ["check", "generate", "list_", "new"]

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from ppvae.cli.arguments import (
    Binarize,
    Data,
    DataRoot,
    Device,
    Epochs,
    Guide,
    Seed,
    Set,
    Story,
    Weights,
)

IMAGES_A_LINE = 8


class Listed(StrEnum):
    """What can be listed."""

    STORIES = "stories"
    GUIDES = "guides"
    DATA = "data"
    OBJECTIVES = "objectives"


def check(
    story: Story,
    data: Data = None,
    data_root: DataRoot = None,
    binarize: Binarize = None,
    options: Set = None,
    seed: Seed = 0,
) -> None:
    """Check that a story keeps the contract and that data fit it; show its sites."""
    from rich.table import Table

    import ppvae
    from ppvae.cli import setup as parts
    from ppvae.data import Stream, preview, to_batch
    from ppvae.story import describe_support, split_batch

    setup = parts.prepare(
        story, data, [], data_root=data_root, binarize=binarize, options=options,
        seed=seed, device="cpu",
    )  # fmt: skip
    batch = to_batch(setup.story, preview(setup.train))
    sites = ppvae.check_story(setup.story, batch)
    table = Table("site", "role", "plate", "shape of a row", "support")
    for site in sites.values():
        where = "data" if site.is_local else "global"
        shape, support = str(tuple(site.row_shape)), describe_support(site.support)
        table.add_row(site.name, site.role, where, shape, support)
    for name, value in split_batch(setup.story, batch)[1].items():
        table.add_row(name, "covariate", "data", str(tuple(value.shape[1:])), "given")
    out = parts.console(setup)
    out.print(table)
    shares = {name: float(value.isnan().float().mean()) for name, value in batch.items()}
    where = ", read as needed" if isinstance(setup.train, Stream) else ""
    missing = ", ".join(f"{share:.0%} of {name}" for name, share in shares.items() if share)
    out.print(
        f"{story} keeps the contract, and {len(setup.train):,} training rows fit it ({setup.train.name}{where})"
        + (f"; missing: {missing}." if missing else "."),
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def generate(
    story: Story,
    data: Data = None,
    num_rows: Annotated[int, Option("--n", min=1, max=400, help="Number of rows.")] = 32,
    path: Annotated[
        Path | None,
        Option(
            "--out",
            help="The file to write, .png or .npz; else generated.png where the data are pictures, generated.npz where not.",
        ),
    ] = None,
    guide: Guide = None,
    weights: Weights = None,
    epochs: Epochs = 100,
    seed: Seed = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    binarize: Binarize = None,
    options: Set = None,
) -> None:
    """Draw new rows from a story: pictures (means of the pixels) as PNG, rows of any kind as arrays
    by site, NPZ."""
    import ppvae
    from ppvae.cli import setup as parts
    from ppvae.cli.writing import write_numbers, write_picture
    from ppvae.data import to_batch
    from ppvae.story import split_batch

    if path is not None and (path.suffix not in (".png", ".npz") or not path.parent.is_dir()):
        raise ValueError(
            f"expected --out to be a .png or .npz file in a folder that exists, got '{path}'"
        )
    setup = parts.prepare(
        story, data, [guide], data_root=data_root, binarize=binarize, options=options,
        seed=seed, device=device,
    )  # fmt: skip
    seen = to_batch(setup.story, setup.test.head(min(num_rows, len(setup.test))))
    shape = _picture_shape(seen, path)
    path = path or Path("generated.npz" if shape is None else "generated.png")
    parts.trained(setup, weights, seed, device, epochs=epochs, progress=False)
    covariates = split_batch(setup.story, seen)[1]  # those of the first test rows
    num_rows = len(next(iter(covariates.values()))) if covariates else num_rows
    rows = ppvae.generate(setup.story, num_rows, seed=seed, mean=shape is not None, **covariates)
    if shape is None:
        write_numbers(path, {name: (rows | covariates)[name].detach() for name in seen}, {})
        said = f"{num_rows} rows of {', '.join(seen)}: {path}"
    else:
        starts = range(0, num_rows, IMAGES_A_LINE)
        drawn = {str(s + 1): rows["x"][s : s + IMAGES_A_LINE].detach() for s in starts}
        said = f"{num_rows} {write_picture(path, drawn, '', shape)}"
    parts.console(setup).print(said, highlight=False, soft_wrap=True)


def _picture_shape(seen: Any, path: Path | None) -> Any:
    """Shape of one picture, or None where rows are to be written as arrays."""
    from ppvae.viz.plots import picture_shape

    if path is not None and path.suffix == ".npz":
        return None
    try:
        if "x" not in seen:
            raise ValueError(f"the rows have no picture 'x', only {', '.join(seen)}.")
        return picture_shape(seen["x"])
    except ValueError as reason:
        if path is None:
            return None
        raise ValueError(
            f"expected pictures for {path}, but {reason.args[0].rstrip('.')}; give an .npz file to --out"
        ) from None


def list_(what: Annotated[Listed, Argument(help="What to list.")]) -> None:
    """List stories, guides, data sets or objectives."""
    from rich.table import Table

    from ppvae.cli.setup import console

    table = Table(what.value, "", show_header=False, box=None, padding=(0, 3, 0, 0))
    for name, line in _lines(what):
        table.add_row(name, line)
    console().print(table, highlight=False, markup=False)


def new(
    name: Annotated[str, Argument(help="Name of the file to make: my_story or my_story.py.")],
    origin: Annotated[str, Option("--from", help="The gallery's story to copy.")] = "vae",
) -> None:
    """Start a story of your own from one of the gallery."""
    from ppvae.stories import gallery_folder, story_names

    if origin not in story_names():
        raise ValueError(f"expected a story among {', '.join(story_names())}; got '{origin}'")
    file = Path(name).with_suffix(".py")
    if file.exists():
        raise ValueError(f"expected the name of a new file, got {file}, which exists")
    if not file.parent.is_dir():
        raise ValueError(f"expected a file in a folder that exists, got {file}")
    file.write_bytes((gallery_folder() / f"{origin}.py").read_bytes())
    print(f"{file} is a copy of {origin}: edit it, then ppvae check {file}")


def _lines(what: Listed) -> list[tuple[str, str]]:
    """Name and one-line description of everything listed."""
    import ast

    from ppvae.data import DATASETS
    from ppvae.guides import FAMILIES
    from ppvae.objectives import OBJECTIVES
    from ppvae.stories import gallery_folder, story_names

    if what is Listed.DATA:
        return list(DATASETS.items())
    if what is Listed.OBJECTIVES:
        return [
            (n, f"{_first_line(o.__doc__)} (assumes {o.assumes})") for n, o in OBJECTIVES.items()
        ]
    if what is Listed.GUIDES:
        return [(name, _first_line(family.__doc__)) for name, family in FAMILIES.items()]
    files = {name: gallery_folder() / f"{name}.py" for name in story_names()}
    texts = {n: ast.get_docstring(ast.parse(f.read_text("utf-8"))) for n, f in files.items()}
    return [(name, _first_line(text)) for name, text in texts.items()]


def _first_line(text: str | None) -> str:
    """First paragraph of a docstring as one line, up to its formula."""
    line = " ".join((text or "").strip().split("\n\n")[0].split())
    return line.split(":math:")[0].rstrip(" ,.")
