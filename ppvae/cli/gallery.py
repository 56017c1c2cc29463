r"""The commands about stories: `check`, `generate`, `list`, `new`."""

__all__ = ["check", "generate", "list_", "new"]

from enum import StrEnum
from pathlib import Path
from typing import Annotated

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
    from ppvae.data import seen
    from ppvae.story import in_words, split_batch
    from ppvae.weights import batch_for

    setup = parts.prepare(
        story, data, [], data_root=data_root, binarize=binarize, options=options,
        seed=seed, device="cpu",
    )  # fmt: skip
    batch = batch_for(setup.story, seen(setup.train))
    sites = ppvae.check_story(setup.story, batch)
    table = Table("site", "role", "plate", "shape of a row", "support")
    for site in sites.values():
        where = "data" if site.is_local else "global"
        shape, support = str(tuple(site.row_shape)), in_words(site.support)
        table.add_row(site.name, site.role, where, shape, support)
    for name, value in split_batch(setup.story, batch)[1].items():
        table.add_row(name, "covariate", "data", str(tuple(value.shape[1:])), "given")
    out = parts.console(setup)
    out.print(table)
    out.print(f"{story} keeps the contract, and {setup.train} fits it.", highlight=False)


def generate(
    story: Story,
    data: Data = None,
    num_rows: Annotated[int, Option("--n", min=1, max=400, help="Number of rows.")] = 32,
    path: Annotated[Path, Option("--out", help="The PNG file to write.")] = Path("generated.png"),
    guide: Guide = None,
    weights: Weights = None,
    epochs: Epochs = 100,
    seed: Seed = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    binarize: Binarize = None,
    options: Set = None,
) -> None:
    """Draw new pictures from a story (means of the pixels)."""
    import ppvae
    from ppvae import ranks
    from ppvae.cli import setup as parts
    from ppvae.plots import image_grid
    from ppvae.story import split_batch
    from ppvae.weights import batch_for

    if path.suffix != ".png" or not path.parent.is_dir():
        raise ValueError(f"expected --out to be a .png file in a folder that exists, got '{path}'")
    setup = parts.prepare(
        story, data, [guide], data_root=data_root, binarize=binarize, options=options,
        seed=seed, device=device,
    )  # fmt: skip
    parts.trained(setup, weights, seed, device, epochs=epochs, progress=False)
    seen = batch_for(setup.story, setup.test.head(min(num_rows, len(setup.test))))
    covariates = split_batch(setup.story, seen)[1]  # those of the first test rows
    num_rows = len(next(iter(covariates.values()))) if covariates else num_rows
    rows = ppvae.generate(setup.story, num_rows, seed=seed, mean=True, **covariates)
    if "x" not in rows:
        raise ValueError(f"expected a story with pictures at the site 'x', got {sorted(rows)}")
    starts = range(0, num_rows, IMAGES_A_LINE)
    pieces = {str(s + 1): rows["x"][s : s + IMAGES_A_LINE].clamp(0, 1) for s in starts}
    if ranks.is_first():
        image_grid(pieces).savefig(path, dpi=160)
    parts.console(setup).print(f"pictures: {path}", highlight=False, soft_wrap=True)


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
    from ppvae.gallery import gallery_folder, story_names

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
    from ppvae.gallery import gallery_folder, story_names
    from ppvae.guides import FAMILIES
    from ppvae.objectives import OBJECTIVES

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
