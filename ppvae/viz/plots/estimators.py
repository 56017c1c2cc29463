r"""Dots of signal against noise for each gradient estimator, beside what a step costs."""

__all__ = ["estimator_dots"]

import math
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .style import BLUE, MARKERS, PALETTE, bare


def estimator_dots(
    snr: Mapping[str, Mapping[str, float]], milliseconds: Mapping[str, float]
) -> Figure:
    r"""One line an estimator: its signal-to-noise ratio for each group of parameters, and its time.

    Arguments:
        snr: Estimator to (group to ratio, dimensionless); 0 and infinity are not drawn.
        milliseconds: Estimator to the time of one step, in milliseconds.

    Returns:
        Two panels with the estimators on a common axis, the first estimator on top.

    Raises:
        ValueError: If there is no estimator, or one has no time.
    """
    if not snr or set(snr) != set(milliseconds):
        raise ValueError(
            f"expected a ratio and a time for each of at least one estimator; got {sorted(snr)} and "
            f"{sorted(milliseconds)}."
        )
    figure = Figure(figsize=(9.0, 1.8 + 0.4 * len(snr)), layout="constrained")
    dots, bars = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    groups = list(dict.fromkeys(group for ratios in snr.values() for group in ratios))
    for index, group in enumerate(groups):
        drawn = [
            (ratios[group], place)
            for place, ratios in enumerate(snr.values())
            if 0 < ratios.get(group, 0) < math.inf
        ]
        x, y = ([point[axis] for point in drawn] for axis in (0, 1))
        marker, color = MARKERS[index % len(MARKERS)], PALETTE[index % len(PALETTE)]
        dots.plot(x, y, linestyle="none", marker=marker, color=color, markersize=8, label=group)
    dots.set_xscale("log")
    dots.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    dots.xaxis.set_major_formatter("{x:g}")
    dots.xaxis.set_minor_formatter(NullFormatter())
    dots.set_yticks(range(len(snr)), list(snr))
    dots.set_ylim(len(snr) - 0.5, -0.5)
    dots.grid(axis="y", alpha=0.3)
    dots.set_xlabel("signal-to-noise ratio of the gradient (higher is better)")
    bars.barh(range(len(snr)), [milliseconds[name] for name in snr], 0.6, color=BLUE)
    bars.set_xlabel("ms a step")
    for axes in (dots, bars):
        bare(axes)
    figure.suptitle("How clearly each estimator points uphill")
    figure.legend(
        *dots.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False
    )
    return figure
