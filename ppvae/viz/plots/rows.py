r"""Which rows fail, and in which direction: one point a row."""

__all__ = ["direction_map", "khat_map"]

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .style import BLUE, ORANGE, bare, to_numpy

HIGHEST, LOWEST = 3.0, -3.0
MAX_CLASSES = 20  # more distinct integers than this are a quantity, not labels
LEGEND_HEIGHT = 0.12  # as a share of the axis
TRUSTED = ("trusted", "not trusted")
WIDEST = 8.0  # times; a scale further off only says "hopeless"
TICKS = (1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0, 4.0, 8.0)


def khat_map(
    khat: Tensor,
    against: Tensor,
    threshold: float,
    *,
    label: str,
    title: str = "Which rows fail",
    axes: Axes | None = None,
) -> Figure:
    r"""One point a row; rows above the threshold are crosses.

    Arguments:
        khat: :math:`\hat k` of each row, dimensionless, with shape :math:`(B,)`; drawn within ±3.
        against: What to hold it against: reconstruction error, gap, a covariate; or a label, integers of at most 20
            kinds, where each class gets a column and its share of failing rows; :math:`(B,)`.
        threshold: Largest trustworthy :math:`\hat k`, dimensionless.
        label: What `against` is, with its unit.
        title: What the figure asks.
        axes: Where to draw; a new figure if None.

    Returns:
        The figure.

    Raises:
        ValueError: If the lengths differ or there is no row.
    """
    _check_rows(khat, against)
    if axes is None:
        axes = Figure(figsize=(6.5, 4), layout="constrained").subplots()
    x, y = to_numpy(against), to_numpy(khat.clamp(LOWEST, HIGHEST))
    bad = to_numpy(khat) > threshold
    if x.dtype.kind in "iub" and len(np.unique(x)) <= MAX_CLASSES:
        x = _columns(axes, x.astype(int), bad, float(max(y.max(), threshold)))
    _points(axes, x, y, bad)
    axes.axhline(threshold, color="black", linestyle="--", linewidth=1.0)
    axes.set_xlabel(label)
    axes.set_ylabel(r"$\hat{k}$ (dimensionless; dashed: threshold)")
    axes.set_title(title)
    return _finished(axes)


def direction_map(
    scale: Tensor,
    shift: Tensor,
    failing: Tensor,
    *,
    title: str = "In which direction rows are off",
    unit: str = "sd of the guide",
    words: tuple[str, str] = TRUSTED,
    axes: Axes | None = None,
) -> Figure:
    r"""In which direction each row's guide is off: to the left too narrow, to the right too wide, upwards shifted.

    Arguments:
        scale: Standard deviation of the guide over that of the posterior, with shape :math:`(B,)`; drawn between 1/8
            and 8.
        shift: Distance of the means, :math:`(B,)`.
        failing: True for rows that fail, :math:`(B,)`; where their weights are not to be trusted, both are understated.
        title: What the figure asks.
        unit: Unit of `shift`.
        words: What rows that pass and rows that fail are called.
        axes: Where to draw; a new figure if None.

    Returns:
        The figure.

    Raises:
        ValueError: If the lengths differ or there is no row.
    """
    _check_rows(scale, shift)
    _check_rows(failing, shift)
    if axes is None:
        axes = Figure(figsize=(6.5, 4), layout="constrained").subplots()
    x = to_numpy(scale.clamp(1 / WIDEST, WIDEST))
    _points(axes, x, to_numpy(shift), to_numpy(failing).astype(bool), words)
    axes.axvline(1, color="black", linestyle="--", linewidth=1.0)
    reach = max(1.25, 1.1 * float(np.exp(np.abs(np.log(x)).max())))
    axes.set_xscale("log")
    axes.set_xlim(1 / reach, reach)
    axes.set_ylim(bottom=0)
    step = (reach - 1) / 4  # ticks closer than this would touch
    kept = [1.0]
    for tick in TICKS:
        if tick <= reach and tick - kept[-1] >= step:
            kept.append(tick)
    ticks = [1 / tick for tick in kept[:0:-1]] + kept
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("scale, guide over posterior (left: too narrow; right: too wide)")
    axes.set_ylabel(f"shift of the mean ({unit})")
    axes.set_title(title)
    return _finished(axes)


def _check_rows(one: Tensor, other: Tensor) -> None:
    if one.dim() != 1 or one.shape != other.shape or not len(one):
        raise ValueError(
            f"expected two numbers for each of at least one row; got shapes {tuple(one.shape)} and "
            f"{tuple(other.shape)}."
        )


def _points(
    axes: Axes, x: np.ndarray, y: np.ndarray, bad: np.ndarray, words: tuple[str, str] = TRUSTED
) -> None:
    axes.scatter(x[~bad], y[~bad], s=10, color=BLUE, marker="o", alpha=0.6, label=words[0])
    share = f"{words[1]} ({bad.mean():.0%})"
    axes.scatter(x[bad], y[bad], s=18, color=ORANGE, marker="x", label=share)


def _columns(axes: Axes, labels: np.ndarray, bad: np.ndarray, top: float) -> np.ndarray:
    """A column for each class, spread in width, with its share of failing rows above; returns the places."""
    classes, place = np.unique(labels, return_inverse=True)
    for column, name in enumerate(classes):
        share = f"{bad[labels == name].mean():.0%}"
        axes.annotate(
            share, (column, top), (0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_xticks(range(len(classes)), [str(name) for name in classes])
    axes.margins(y=0.12)
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(labels))
    return np.asarray(place + spread)


def _finished(axes: Axes) -> Figure:
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + LEGEND_HEIGHT * (top - bottom))  # no point under the legend
    axes.legend(  # on white, so that no line runs through it
        loc="upper center", ncols=2, framealpha=1, edgecolor="none", fontsize="small"
    )
    bare(axes)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure
