r"""The report of a comparison: one HTML page, and its figures beside it."""

__all__ = ["report"]

import io
import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from ppvae.data import to_batch
from ppvae.league import League
from ppvae.predict import generate, reconstruct
from ppvae.storage.files import write_bytes
from ppvae.storage.run_folder import versions
from ppvae.story import TensorDict, split_batch, trace_sites
from ppvae.viz.figures import draw, elbo_curves
from ppvae.viz.html import render
from ppvae.viz.plots import image_grid, khat_histogram, picture_shape, training_curves
from ppvae.viz.summary import cautions, headline
from ppvae.viz.tables import differences_table, tables_of

DOTS_PER_INCH = 160
WIDE, NARROW = 10.0, 4.5  # inches, for screens of about 960 and 360 CSS pixels
NUM_IMAGES, NUM_NARROW_IMAGES = 12, 6
NUM_PARTICLES = 20


def report(
    league: League, data: Any, *, path: str | os.PathLike[str], title: str, command: str = ""
) -> Path:
    """Write what a comparison found as one self-contained HTML page.

    The page needs no script, no network and no other file. Its figures also go to the folder
    `figures` beside it.

    Arguments:
        league: What `ppvae.compare` gave.
        data: Rows to show and reconstruct, anything that `ppvae.data.as_rows` takes: best those
            measured.
        path: Of the page; parent folders are made.
        title: Its heading.
        command: What was typed to make it, if anything.

    Returns:
        The path.
    """
    file = Path(path).expanduser()
    folder = file.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    curves = {name: elbo_curves(history) for name, history in league.histories.items()}
    figures: dict[str, Callable[[bool], Figure]] = {
        "gaps": lambda narrow: draw(league, compact=narrow),
        "khat": lambda narrow: khat_histogram(league.khat, league.khat_threshold),
        "training": lambda narrow: training_curves(curves),
    }
    no_pictures = ""
    try:
        images = _images(league, data)
        title_of_samples = "New rows from the story (means of the pixels)"
        figures["samples"] = partial(_grid, _samples(league, images), title_of_samples)
        rows = _reconstructions(league, images)
        figures["reconstructions"] = partial(_grid, rows, "Rows encoded and decoded again")
    except ValueError as reason:
        no_pictures = str(reason)
    page = render(
        "report.html",
        title=title,
        headline=headline(league),
        league=league,
        table=tables_of(league)[0],
        differences=differences_table(league) if len(league.rows) > 1 else None,
        cautions=cautions(league),
        figures={name: _embedded(name, make, folder) for name, make in figures.items()},
        no_pictures=no_pictures,
        settings=dict(_settings(league)),
        command=command,
    )
    write_bytes(file, page.encode())
    return file


def _embedded(name: str, make: Callable[[bool], Figure], folder: Path) -> dict[str, str]:
    """A figure for wide and for narrow screens as base64, or the `reason` why there is none."""
    try:
        wide, narrow = make(False), make(True)
    except ValueError as reason:
        return {"reason": str(reason)}
    png = _png(wide, WIDE)
    (folder / f"{name}.png").write_bytes(png)
    return {"wide": b64encode(png).decode(), "narrow": b64encode(_png(narrow, NARROW)).decode()}


def _png(figure: Figure, inches: float) -> bytes:
    """The figure at another width; images keep their shape, other axes their height."""
    width, height = figure.get_size_inches()
    has_images = any(axes.images for axes in figure.axes)
    figure.set_size_inches(inches, height * inches / width if has_images else height)
    figure.suptitle(figure.get_suptitle(), wrap=True)
    for axes in figure.axes:
        axes.xaxis.label.set_wrap(True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _images(league: League, data: Any) -> TensorDict:
    """A few rows whose site `x` is a picture with values in [0, 1]."""
    batch = to_batch(next(iter(league.stories.values())), data, NUM_IMAGES)
    if "x" not in batch:
        raise ValueError(f"the rows have no picture 'x', only {', '.join(batch)}.")
    picture_shape(batch["x"])
    return batch


def _samples(league: League, images: TensorDict) -> TensorDict:
    """Rows of each story's own, as means of the pixels."""
    rows = {"data": images["x"]}
    for name, story in league.stories.items():
        label = "story" if league.decoder == "shared" else name
        if label not in rows:
            covariates: TensorDict = {}
            if not hasattr(story, "run_conditioned"):
                covariates = split_batch(story, images)[1]
            drawn = generate(story, len(images["x"]), seed=0, mean=True, **covariates)
            rows[label] = drawn["x"].clamp(0, 1)
    return rows


def _reconstructions(league: League, images: TensorDict) -> TensorDict:
    """What each guide and its story make of the images."""
    rows = {"data": images["x"]}
    for name, guide in league.guides.items():
        story = league.stories[name]
        given = [site for site in trace_sites(story, images).observed if site != "x"]
        found = reconstruct(story, guide, images, given=given, num_particles=NUM_PARTICLES)
        rows[name] = found["x"].clamp(0, 1)
    return rows


def _grid(rows: TensorDict, title: str, narrow: bool) -> Figure:
    count = NUM_NARROW_IMAGES if narrow else NUM_IMAGES
    shown = {label: x[:count] for label, x in rows.items()}
    return image_grid(shown, picture_shape(rows["data"]), title)


def _settings(league: League) -> Iterator[tuple[str, str]]:
    """All that the numbers depend on, by name."""
    stories = {id(story): (name, story) for name, story in league.stories.items()}
    for name, story in stories.values():
        yield "story" if len(stories) == 1 else f"story of {name}", _described(story)
    for name, guide in league.guides.items():
        steps = league.gaps[name].local_steps
        yield f"guide {name}", f"{_described(guide)}; search for q*: up to {steps:,} steps"
    yield from _flat({"decoder": league.decoder, **league.settings})
    seconds = sum(history.seconds for history in league.histories.values())
    yield "training time", f"{seconds:.1f} s"
    yield "versions", ", ".join(f"{name} {number}" for name, number in versions().items())
    yield "written", datetime.now(UTC).isoformat(sep=" ", timespec="minutes")


def _described(module: nn.Module) -> str:
    count = sum(parameter.numel() for parameter in module.parameters())
    return f"{type(module).__name__}, {count:,} parameters"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as one list of names and values."""
    for name, value in settings.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{label}: ")
        else:
            yield label, "none" if value in (None, "", {}) else str(value)
