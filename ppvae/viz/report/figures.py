r"""The figures of a report: drawn from a league, saved as PNG files, and placed on the page."""

__all__ = ["draw_all"]

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ppvae.compare import League
from ppvae.data import to_batch
from ppvae.estimate import Estimate
from ppvae.predict import generate, reconstruct
from ppvae.story import TensorDict, trace_sites
from ppvae.story.batch import split_batch
from ppvae.viz.plots import (
    gap_bars,
    image_grid,
    khat_histogram,
    picture_shape,
    training_curves,
)
from ppvae.viz.report.html import paragraph, picture

DOTS_PER_INCH = 160
CSS_DOTS_PER_INCH = 84
NUM_IMAGES = 12
NUM_PARTICLES = 20


def draw_all(league: League, data: Any, folder: Path) -> dict[str, str]:
    """Draw every figure, save it in `folder`, and give its place on the page.

    Arguments:
        league: The league.
        data: Rows like those that were measured.
        folder: Where the PNG files go; made if need be.

    Returns:
        Name of the figure -> HTML: the picture, or a sentence that says why there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo: dict[str, tuple[Callable[[], Figure], str]] = {
        "gaps": (lambda: _gaps(league), "Approximation and amortization gap of each guide."),
        "training": (lambda: _training(league), "ELBO by epoch of each guide."),
        "khat": (
            lambda: khat_histogram(league.khat, league.khat_threshold),
            "Histogram of k-hat for each guide.",
        ),
        "samples": (lambda: _samples(league, data), "Pictures drawn from the story."),
        "reconstructions": (
            lambda: _reconstructions(league, data),
            "Pictures, and what each guide and its story make of them.",
        ),
    }
    return {name: _placed(name, draw, alt, folder) for name, (draw, alt) in todo.items()}


def _placed(name: str, draw: Callable[[], Figure], alt: str, folder: Path) -> str:
    try:
        figure = draw()
    except ValueError as reason:
        return paragraph(f"Not drawn: {reason}", "small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    (folder / f"{name}.png").write_bytes(buffer.getvalue())
    width = round(figure.get_size_inches()[0] * CSS_DOTS_PER_INCH)
    return picture(buffer.getvalue(), alt, width)


def _gaps(league: League) -> Figure:
    rows = league.rows
    return gap_bars(
        [row.name for row in rows],
        [_pair(row.approximation_gap) for row in rows],
        [_pair(row.amortization_gap) for row in rows],
    )


def _pair(estimate: Estimate) -> tuple[float, float]:
    return float(estimate.value), float(estimate.std_error)


def _training(league: League) -> Figure:
    curves = {}
    for name, history in league.histories.items():
        validation = [record["val_elbo"] for record in history.records]
        missing = any(value is None for value in validation)
        train = [record["elbo"] for record in history.records]
        curves[name] = (train, None if missing else validation)
    return training_curves(curves)


def _samples(league: League, data: Any) -> Figure:
    """Rows of each story's own, as means of the pixels."""
    images = _images(league, data)
    rows = {"data": images["x"]}
    for name, story in league.stories.items():
        covariates: TensorDict = {}
        if not hasattr(story, "run_conditioned"):
            covariates = split_batch(story, images)[1]
        label = "story" if league.decoder == "shared" else name
        if label not in rows:
            drawn = generate(story, len(images["x"]), seed=0, mean=True, **covariates)
            rows[label] = drawn["x"].clamp(0, 1)
    return image_grid(
        rows, picture_shape(images["x"]), "New rows from the story (means of the pixels)"
    )


def _reconstructions(league: League, data: Any) -> Figure:
    images = _images(league, data)
    rows = {"data": images["x"]}
    for name, guide in league.guides.items():
        story = league.stories[name]
        given = [site for site in trace_sites(story, images).observed if site != "x"]
        found = reconstruct(story, guide, images, given=given, num_particles=NUM_PARTICLES)
        rows[name] = found["x"].clamp(0, 1)
    return image_grid(rows, picture_shape(images["x"]), "Rows encoded and decoded again")


def _images(league: League, data: Any) -> TensorDict:
    """A few rows whose site `x` is a picture with values in [0, 1]."""
    batch = to_batch(next(iter(league.stories.values())), data, NUM_IMAGES)
    if "x" not in batch:
        raise ValueError(f"the rows have no picture 'x', only {', '.join(batch)}.")
    picture_shape(batch["x"])
    return batch
