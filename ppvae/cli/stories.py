r"""The commands about stories: `check`, `list`, `new`."""

__all__ = ["check", "list_", "new"]

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

import ppvae
from ppvae.cli.options import Data, Output, Story
from ppvae.cli.output import say, show
from ppvae.cli.resolve import print_notes, resolve
from ppvae.config import TrainConfig
from ppvae.listing import gallery_folder, listed, story_names
from ppvae.options import did_you_mean


def check(story: Story, *, given: Data = Data(), output: Output = Output()) -> None:
    """Check that a story keeps the contract and that data fit it; show its sites."""
    from ppvae.viz.tables import Table

    built = resolve(story, given, [], TrainConfig(device="cpu"))
    train: Any = built.data.train
    batch = ppvae.data.to_batch(built.story, ppvae.data.preview(train))
    lines: list[tuple[str, ...]] = []
    for site in ppvae.check_story(built.story, batch).values():
        plate = "data" if site.is_local else "global"
        support = ppvae.story.describe_support(site.support)
        lines.append((site.name, site.role, plate, str(tuple(site.row_shape)), support))
    for name, value in ppvae.story.split_batch(built.story, batch)[1].items():
        lines.append((name, "covariate", "data", str(tuple(value.shape[1:])), "given"))
    heads = ("site", "role", "plate", "shape of a row", "support")
    rows = [dict(zip(heads, line, strict=True)) for line in lines]
    print_notes(built)
    show(rows, output, table=Table("", heads, lines))
    shares = {name: float(value.isnan().float().mean()) for name, value in batch.items()}
    missing = ", ".join(f"{share:.0%} of {name}" for name, share in shares.items() if share)
    streamed = ", read as needed" if isinstance(train, ppvae.data.Stream) else ""
    say(
        f"{story} keeps the contract, and {len(train):,} training rows fit it "
        f"({train.name}{streamed})" + (f"; missing: {missing}." if missing else "."),
        output=output,
    )


def list_(
    what: Annotated[
        Literal["stories", "guides", "data", "objectives"], Parameter(help="What to list.")
    ],
    *,
    output: Output = Output(),
) -> None:
    """List stories, guides, data sets or objectives."""
    found = listed(what)
    width = max(len(name) for name in found) + 3
    show(found, output, *(f"{name:<{width}}{line}" for name, line in found.items()))


def new(
    name: Annotated[str, Parameter(help="Name of the file to make: my_story or my_story.py.")],
    *,
    origin: Annotated[str, Parameter(name="--from", help="The gallery's story to copy.")] = "vae",
    debug: Annotated[bool, Parameter(help="Show the traceback of an error.")] = False,
) -> None:
    """Start a story of your own from one of the gallery."""
    names = story_names()
    if origin not in names:
        raise ValueError(
            f"expected a story among {', '.join(names)}; got "
            f"'{origin}'{did_you_mean(origin, names)}"
        )
    file = Path(name).with_suffix(".py")
    if file.exists():
        raise ValueError(f"expected the name of a new file, got {file}, which exists")
    if not file.parent.is_dir():
        raise ValueError(f"expected a file in a folder that exists, got {file}")
    file.write_bytes((gallery_folder() / f"{origin}.py").read_bytes())
    print(f"{file} is a copy of {origin}: edit it, then ppvae check {file}")
