r"""Calibration curves: empirical distribution functions less the diagonal, with their simultaneous band."""

__all__ = ["calibration_curves"]

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .style import PALETTE, bare, to_numpy

LINES = ("-", "--", "-.", ":")
MAX_LABELS = len(LINES)  # each named curve has a line of its own, also in grey
LEGEND_HEIGHT = 0.25  # as a share of the axis


def calibration_curves(
    levels: Tensor,
    curves: Mapping[str, Tensor],
    band: tuple[Tensor, Tensor],
    *,
    title: str = "Calibration",
    level_label: str = "level",
    axes: Axes | None = None,
) -> Figure:
    r"""Distance of each curve from the diagonal; a curve that leaves the band is no chance.

    Arguments:
        levels: Shares at which the curves are given, with shape :math:`(L,)`, 0 to 1.
        curves: Name to shares, :math:`(L,)`, 0 to 1. With more than four, those that stray furthest
            are named and the others are grey.
        band: Lower and upper bound, :math:`(L,)`, for a curve that should be the diagonal.
        title: What the curves are.
        level_label: What the levels are.
        axes: Where to draw; a new figure if None.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no curve, or the lengths differ.
    """
    if not curves or any(c.shape != levels.shape for c in (*curves.values(), *band)):
        raise ValueError(
            f"expected at least one curve and a band, all of shape {tuple(levels.shape)}; got "
            f"{ {name: tuple(c.shape) for name, c in curves.items()} }."
        )
    if axes is None:
        axes = Figure(figsize=(6.5, 4), layout="constrained").subplots()
    x = to_numpy(levels)
    low, high = (to_numpy(b) - x for b in band)
    axes.fill_between(x, low, high, color="0.85", step="mid")
    ranked = sorted(curves, key=lambda name: -float((curves[name] - levels).abs().max()))
    for place, name in reversed(list(enumerate(ranked))):
        y = to_numpy(curves[name]) - x
        if place >= MAX_LABELS:
            axes.plot(x, y, color="0.6", linewidth=0.7)
        else:
            color, line = PALETTE[place % len(PALETTE)], LINES[place % len(LINES)]
            axes.plot(x, y, linewidth=1.6, label=name, color=color, linestyle=line)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"{level_label} (share)")
    axes.set_ylabel("share less level (grey: 95 % band)")
    axes.set_title(title)
    if len(curves) > 1:
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, top + LEGEND_HEIGHT * (top - bottom))  # no curve under the legend
        axes.legend(loc="upper center", ncols=2, frameon=False, fontsize="small")
    bare(axes)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure
