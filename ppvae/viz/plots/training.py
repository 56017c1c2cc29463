r"""ELBO by epoch, with the axis on the part of training where guides differ."""

__all__ = ["training_curves"]

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .style import PALETTE, finish, new_axes, style_of

EARLY = 0.25  # share of each curve that need not be visible
LABEL_HEIGHT = 0.05  # least distance between two labels, as a share of the axis


def training_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float] | None]],
) -> Figure:
    r"""ELBO per epoch of each guide, training solid and validation dashed.

    The vertical axis leaves out up to the lowest quarter of each curve, so that the first epochs do
    not squash the rest; its label says how many epochs are cut.

    Arguments:
        curves: Guide to (train ELBO, validation ELBO or None), one value per epoch in nats per row.
            NaN leaves a gap.

    Returns:
        One axis with the guides named at the right end of their curves.

    Raises:
        ValueError: If there is no guide, or a curve has no finite value.
    """
    if not curves:
        raise ValueError("expected at least one guide in `curves`; got none.")
    axes = new_axes(8.0, 4.8)
    drawn, ends = [], []
    for index, (name, (train, validation)) in enumerate(curves.items()):
        drawn.append(_curve(axes, name, train, "-", index))
        if validation is not None:
            drawn.append(_curve(axes, name, validation, "--", index))
        ends.append((name, drawn[-1][:, -1], PALETTE[index % len(PALETTE)]))
    longest = max(float(points[0, -1]) for points in drawn)
    axes.set_xlim((1, longest) if longest > 1 else (0, 2))
    # each curve sets its own floor, so that one bad guide among many stays in sight
    floor = min(float(np.quantile(elbo, EARLY)) for _, elbo in drawn)
    top = max(float(elbo.max()) for _, elbo in drawn)
    margin = 0.06 * (top - floor) or 1.0
    axes.set_ylim(floor - margin, top + margin)
    num_cut = sum(int((elbo < floor - margin).sum()) for _, elbo in drawn)
    _label_ends(axes, ends)
    note = f"\n{num_cut} epochs lie below the axis and are not shown" if num_cut else ""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    keys = [Line2D([], [], color="black", linestyle=style) for style in ("-", "--")]
    axes.legend(keys, ["train", "validation"], loc="lower right", frameon=False)
    ylabel = f"ELBO (nats per row; higher is better){note}"
    return finish(axes, title="Training", xlabel="epoch", ylabel=ylabel)


def _curve(axes: Axes, name: str, elbo: Sequence[float], line: str, index: int) -> np.ndarray:
    values = np.asarray(elbo, dtype=float)
    is_finite = np.isfinite(values)
    if not is_finite.any():
        raise ValueError(
            f"expected a finite ELBO in some epoch of guide {name!r}; got {len(values)} epochs "
            "without one. Pass None where there is no validation curve."
        )
    epochs = np.arange(1, len(values) + 1)
    axes.plot(
        epochs, values, linestyle=line, markevery=max(1, len(values) // 8), markersize=5,
        markerfacecolor="white" if line == "--" else None, **style_of(index),
    )  # fmt: skip
    return np.stack([epochs[is_finite], values[is_finite]])


def _label_ends(axes: Axes, ends: Sequence[tuple[str, np.ndarray, str]]) -> None:
    low, high = axes.get_ylim()
    step = LABEL_HEIGHT * (high - low)
    ends = sorted(ends, key=lambda end: end[1][1])
    heights = [max(float(y), low) for _, (_, y), _ in ends]
    # push overlapping labels up, then those that were pushed over the top down again
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + step)
    heights[-1] = min(heights[-1], high)
    for i in reversed(range(len(heights) - 1)):
        heights[i] = min(heights[i], heights[i + 1] - step)
    for (name, end, color), height in zip(ends, heights, strict=True):
        axes.annotate(
            name, xy=tuple(end), xytext=(1.05, height), textcoords=axes.get_yaxis_transform(),
            va="center", fontsize=11, annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": color, "linestyle": ":", "relpos": (0, 0.5),
                "shrinkA": 2, "shrinkB": 0,
            },
        )  # fmt: skip
