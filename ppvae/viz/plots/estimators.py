r"""Dots of signal against noise for each gradient estimator, beside what a step costs."""

__all__ = ["estimator_dots"]

import math
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .style import BLUE, finish, style_of


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
            "expected a ratio and a time for each of at least one estimator; got "
            f"{sorted(snr)} and {sorted(milliseconds)}."
        )
    figure = Figure(figsize=(9.0, 1.8 + 0.4 * len(snr)), layout="constrained")
    dots, bars = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    for index, group in enumerate(dict.fromkeys(g for ratios in snr.values() for g in ratios)):
        ratios = [ratios.get(group, 0.0) for ratios in snr.values()]
        drawn = [(ratio, row) for row, ratio in enumerate(ratios) if 0 < ratio < math.inf]
        x, y = zip(*drawn, strict=True) if drawn else ((), ())
        dots.plot(x, y, linestyle="none", markersize=8, label=group, **style_of(index))
    dots.set_xscale("log")
    dots.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    dots.xaxis.set_major_formatter("{x:g}")
    dots.xaxis.set_minor_formatter(NullFormatter())
    dots.set_yticks(range(len(snr)), list(snr))
    dots.set_ylim(len(snr) - 0.5, -0.5)
    dots.grid(axis="y", alpha=0.3)
    bars.barh(range(len(snr)), [milliseconds[name] for name in snr], 0.6, color=BLUE)
    finish(dots, xlabel="signal-to-noise ratio of the gradient (higher is better)")
    finish(bars, xlabel="ms a step")
    figure.suptitle("Signal and noise of each gradient estimator")
    figure.legend(loc="outside lower center", ncols=6, frameon=False)
    return figure
