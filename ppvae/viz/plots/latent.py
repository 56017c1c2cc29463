r"""Scatter of a two-dimensional latent space."""

__all__ = ["latent_scatter"]

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .style import BLUE, MARKERS, PALETTE, to_numpy

MAX_CLASSES = 20  # more distinct labels than this are drawn as a scale, not as classes


def latent_scatter(z: Tensor, labels: Tensor | None = None) -> Figure:
    r"""Where the rows lie in a two-dimensional latent space.

    Arguments:
        z: Latent values, one per row, in the latent's own unit, with shape :math:`(N, 2)`.
        labels: Class (integers, at most 20 distinct) or quantity (any other numbers) of each row,
            with shape :math:`(N,)`.

    Returns:
        A scatter; classes are named at their medians, quantities have a colour bar.

    Raises:
        ValueError: If there is no row, the shapes do not fit or a value is not finite.
    """
    points = _points(z)
    groups = None if labels is None else _groups(labels, len(points))
    size = float(np.clip(20000 / len(points), 9, 36))
    figure = Figure(figsize=(6.8, 6.0), layout="constrained")
    axes = figure.add_subplot()
    x, y = points.T
    if groups is None:
        axes.scatter(x, y, s=size, color=BLUE, alpha=0.6)
    elif groups.dtype.kind in "iub" and len(np.unique(groups)) <= MAX_CLASSES:
        _scatter_classes(axes, points, groups, size)
    else:
        drawn = axes.scatter(x, y, s=size, c=groups, cmap=colormaps["cividis"])
        figure.colorbar(drawn, ax=axes, label="label")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(
        title=f"Latent space, {len(points):,} rows",
        xlabel="latent dimension 1 (latent units)",
        ylabel="latent dimension 2 (latent units)",
    )
    axes.grid(alpha=0.3)
    return figure


def _scatter_classes(axes: Axes, points: np.ndarray, groups: np.ndarray, size: float) -> None:
    for index, group in enumerate(np.unique(groups)):
        x, y = points[groups == group].T
        axes.scatter(
            x,
            y,
            s=size,
            color=PALETTE[index % len(PALETTE)],
            marker=MARKERS[index % len(MARKERS)],
            alpha=0.6,
            linewidths=0,
            label=str(group),
        )
        axes.text(
            float(np.median(x)),
            float(np.median(y)),
            str(group),
            ha="center",
            va="center",
            fontsize=12,
            fontweight="bold",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.85},
        )
    axes.legend(
        title="label", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=1.5
    )


def _points(z: Tensor) -> np.ndarray:
    points = to_numpy(z)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(
            f"expected z of shape (N, 2) with N at least 1; got {points.shape}. "
            "Choose two latent dimensions."
        )
    if not np.isfinite(points).all():
        raise ValueError("expected finite z; got NaN or an infinity. Drop those rows.")
    return points


def _groups(labels: Tensor, num_rows: int) -> np.ndarray:
    groups = to_numpy(labels)
    if groups.shape != (num_rows,):
        raise ValueError(
            f"expected one label per row, with shape ({num_rows},); got {groups.shape}."
        )
    if not np.isfinite(groups).all():
        raise ValueError("expected finite labels; got NaN or an infinity. Drop those rows.")
    return groups
