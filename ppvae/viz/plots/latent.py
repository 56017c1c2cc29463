r"""Scatter of a two-dimensional latent space."""

__all__ = ["latent_scatter"]

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .style import BLUE, new_axes, style_of, to_numpy

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
    points = to_numpy(z)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(
            f"expected z of shape (N, 2) with N at least 1; got {points.shape}. "
            "Choose two latent dimensions."
        )
    groups = None if labels is None else to_numpy(labels)
    if groups is not None and groups.shape != (len(points),):
        raise ValueError(
            f"expected one label per row, with shape ({len(points)},); got {groups.shape}."
        )
    for name, values in (("z", points), ("labels", points if groups is None else groups)):
        if not np.isfinite(values).all():
            raise ValueError(f"expected finite {name}; got NaN or an infinity. Drop those rows.")
    x, y = points.T
    size = float(np.clip(20000 / len(points), 9, 36))
    axes = new_axes(6.8, 6.0)
    if groups is None:
        axes.scatter(x, y, s=size, color=BLUE, alpha=0.6)
    elif groups.dtype.kind not in "iub" or len(np.unique(groups)) > MAX_CLASSES:
        drawn = axes.scatter(x, y, s=size, c=groups, cmap="cividis")
        axes.figure.colorbar(drawn, ax=axes, label="label")
    else:
        for index, group in enumerate(np.unique(groups)):
            of_group = groups == group
            axes.scatter(
                x[of_group], y[of_group], s=size, alpha=0.6, linewidths=0, label=str(group),
                **style_of(index),
            )  # fmt: skip
            axes.text(
                float(np.median(x[of_group])), float(np.median(y[of_group])), str(group),
                ha="center", va="center", fontsize=12, fontweight="bold",
                bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.85},
            )  # fmt: skip
        axes.legend(
            title="label", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False,
            markerscale=1.5,
        )  # fmt: skip
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.3)
    axes.set(
        title=f"Latent space, {len(points):,} rows",
        xlabel="latent dimension 1 (latent units)",
        ylabel="latent dimension 2 (latent units)",
    )
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure
