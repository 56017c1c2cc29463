r"""Bars of one number for each latent dimension: which of them are in use."""

__all__ = ["unit_bars"]

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .style import BLUE, bare, to_numpy

MAX_NAMES = 25
HEADROOM = 3.0  # times, on the logarithmic axis
FEWEST = 6  # places of an axis, so that a single bar is a bar


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
    r"""Latent numbers from the largest value to the smallest, on a logarithmic axis.

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
    if axes is None:
        axes = Figure(figsize=(6.5, 4), layout="constrained").subplots()
    y, error = to_numpy(values), to_numpy(std_errors)
    order = np.argsort(-y, kind="stable")
    y, error, place = y[order], error[order], np.arange(len(y))
    floor = 0.0 if threshold is None else threshold
    active = y > floor
    axes.bar(place[active], y[active], color=BLUE, edgecolor="white", label="active")
    if not active.all():
        idle = f"idle ({int((~active).sum())} of {len(y)})"
        axes.bar(
            place[~active], y[~active], color="0.75", edgecolor="white", hatch="////", label=idle
        )
    axes.errorbar(place, y, yerr=error, fmt="none", ecolor="black", capsize=2, linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylim(bottom=min([*y[y > 0], *([floor] if floor else [])], default=1.0) / 3)
    if threshold is not None:
        axes.axhline(threshold, color="black", linestyle="--", linewidth=1.0)
        axes.set_ylim(top=axes.get_ylim()[1] * HEADROOM)  # no bar under the legend
        axes.legend(loc="upper right", ncols=2, frameon=False, fontsize="small")
    if len(names) <= MAX_NAMES:
        axes.set_xticks(place, [names[i] for i in order], rotation=60, ha="right", fontsize=8)
    axes.set_xlim(-0.7, max(len(y), FEWEST) - 0.3)
    axes.set_xlabel("largest first")
    axes.set_ylabel(label)
    axes.set_title(title)
    bare(axes)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure
