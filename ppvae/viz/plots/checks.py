r"""Checks at a glance: calibration, predictive checks, latent numbers in use."""

__all__ = ["calibration_curves", "tail_dots", "unit_bars"]

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .style import BLUE, ORANGE, PALETTE, finish, new_axes, to_numpy

LINES = ("-", "--", "-.", ":")
MAX_LABELS = len(LINES)  # each named curve has a line of its own, also in grey
MAX_NAMES = 25
HEADROOM = 3.0  # times, on the logarithmic axis
MIN_PLACES = 6  # of the axis of bars, so that a single bar is a bar


def calibration_curves(
    levels: Tensor,
    curves: Mapping[str, Tensor],
    band: tuple[Tensor, Tensor],
    *,
    title: str = "Calibration",
    level_label: str = "level",
    axes: Axes | None = None,
) -> Figure:
    r"""Distance of each curve from the diagonal; one that leaves the band is no chance.

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
    axes = axes or new_axes()
    x = to_numpy(levels)
    low, high = (to_numpy(b) - x for b in band)
    axes.fill_between(x, low, high, color="0.85", step="mid")
    ranked = sorted(curves, key=lambda name: -float((curves[name] - levels).abs().max()))
    for rank, name in reversed(list(enumerate(ranked))):
        y = to_numpy(curves[name]) - x
        if rank >= MAX_LABELS:
            axes.plot(x, y, color="0.6", linewidth=0.7)
        else:
            axes.plot(x, y, LINES[rank], color=PALETTE[rank], linewidth=1.6, label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlim(0, 1)
    if len(curves) > 1:
        axes.legend(loc="upper center", ncols=2, frameon=False, fontsize="small")
    return finish(
        axes, headroom=0.25 if len(curves) > 1 else 0, title=title, xlabel=f"{level_label} (share)",
        ylabel="share less level (grey: 95 % band)",
    )  # fmt: skip


def tail_dots(
    tail_probability: Mapping[str, tuple[float, float]],
    extreme: float,
    *,
    title: str = "Predictive checks",
    axes: Axes | None = None,
) -> Figure:
    r"""One line a statistic: where the data lie among their replicates. Crosses: unlike them.

    Arguments:
        tail_probability: Statistic to (share of replicates above the data, standard error), 0 to 1.
        extreme: Share on either side that counts as unlike.
        title: What was checked.
        axes: Where to draw; a new figure if None.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no statistic.
    """
    if not tail_probability:
        raise ValueError("expected at least one statistic; got none.")
    axes = axes or new_axes(height=1.6 + 0.35 * len(tail_probability))
    for side in ((-0.02, extreme), (1 - extreme, 1.02)):
        axes.axvspan(*side, color="0.85")
    for row, (value, error) in enumerate(tail_probability.values()):
        unlike = not extreme <= value <= 1 - extreme
        color, marker = (ORANGE, "X") if unlike else (BLUE, "o")
        axes.errorbar(value, row, xerr=error, color=color, marker=marker, capsize=2, markersize=7)
    axes.set_yticks(range(len(tail_probability)), list(tail_probability), fontsize=8)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(tail_probability) - 0.5, -0.5))
    return finish(axes, title=title, xlabel="share of replicates above the data (grey: unlike)")


def unit_bars(
    names: Sequence[str],
    values: Tensor,
    std_errors: Tensor,
    threshold: float | None,
    *,
    label: str,
    title: str = "Which latent numbers are in use",
    axes: Axes | None = None,
) -> Figure:
    r"""A bar for each latent number, from the largest to the smallest, on a logarithmic axis.

    Arguments:
        names: Latent numbers, D of them; written when there are at most 25.
        values: Activity or cost of each, above 0 or 0, with shape :math:`(D,)`.
        std_errors: Their standard errors, :math:`(D,)`.
        threshold: Above which a number is active; bars below it are hatched. None draws all alike.
        label: What the values are, with their unit.
        title: What the bars show.
        axes: Where to draw; a new figure if None.

    Returns:
        The figure.

    Raises:
        ValueError: If the lengths differ or there is no number.
    """
    if not len(names) or values.shape != (len(names),) or std_errors.shape != values.shape:
        raise ValueError(
            f"expected a value and a standard error for each of {len(names)} names; got shapes "
            f"{tuple(values.shape)} and {tuple(std_errors.shape)}."
        )
    axes = axes or new_axes()
    y, error = to_numpy(values), to_numpy(std_errors)
    order = np.argsort(-y, kind="stable")
    y, error, x = y[order], error[order], np.arange(len(y))
    floor = threshold or 0.0
    idle = y <= floor
    axes.bar(x[~idle], y[~idle], color=BLUE, edgecolor="white", label="active")
    if idle.any():
        what = f"idle ({int(idle.sum())} of {len(y)})"
        axes.bar(x[idle], y[idle], color="0.75", edgecolor="white", hatch="////", label=what)
    axes.errorbar(x, y, yerr=error, fmt="none", ecolor="black", capsize=2, linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylim(bottom=min([*y[y > 0], *([floor] if floor else [])], default=1.0) / 3)
    if threshold is not None:
        axes.axhline(threshold, color="black", linestyle="--", linewidth=1.0)
        axes.set_ylim(top=axes.get_ylim()[1] * HEADROOM)  # no bar under the legend
        axes.legend(loc="upper right", ncols=2, frameon=False, fontsize="small")
    if len(names) <= MAX_NAMES:
        axes.set_xticks(x, [names[i] for i in order], rotation=60, ha="right", fontsize=8)
    axes.set_xlim(-0.7, max(len(y), MIN_PLACES) - 0.3)
    return finish(axes, title=title, xlabel="largest first", ylabel=label)
