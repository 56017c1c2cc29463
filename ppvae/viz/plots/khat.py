r"""Histograms of k-hat: how many rows of each guide have weights to be trusted."""

__all__ = ["khat_histogram"]

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .style import PALETTE, bare, to_numpy

NUM_BINS = 40
LOWEST, HIGHEST = -3.0, 3.0  # beyond these a k-hat only says "harmless" or "hopeless"


def khat_histogram(khat: Mapping[str, Tensor], threshold: float) -> Figure:
    r"""Distribution of k-hat over rows for each guide, with the share that is not to be trusted.

    Arguments:
        khat: Guide to :math:`\hat k`, dimensionless, with shape :math:`(B,)`. Values beyond ±3,
            among them :math:`-\infty` (constant weights) and :math:`+\infty` (too few weights to
            fit), are not drawn but counted in the legend.
        threshold: Largest trustworthy :math:`\hat k`, dimensionless.

    Returns:
        One panel per guide on a common axis; bars above the threshold are hatched.

    Raises:
        ValueError: If there is no guide, a guide has no row, or a value is NaN.
    """
    if not khat:
        raise ValueError("expected at least one guide in `khat`; got none.")
    rows = {name: _checked(name, values) for name, values in khat.items()}
    edges = _edges_through(threshold, np.concatenate(list(rows.values())))
    figure = Figure(figsize=(7.5, 1.3 + 1.35 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for index, (axes, (name, values)) in enumerate(zip(grid, rows.items(), strict=True)):
        label = _summary(name, values, threshold)
        _panel(axes, values, edges, threshold, PALETTE[index % len(PALETTE)], label)
    grid[-1].set_xlabel(
        rf"Pareto shape $\hat{{k}}$ (dimensionless; dashed: threshold {threshold:.2f}; "
        "hatched: above it)"
    )
    figure.suptitle("How far the importance weights of each row can be trusted")
    return figure


def _panel(
    axes: Axes, values: np.ndarray, edges: np.ndarray, threshold: float, color: str, label: str
) -> None:
    counts, _ = np.histogram(values[_is_drawn(values)], edges)
    starts = edges[:-1]
    for side, hatch in ((starts < threshold, ""), (starts >= threshold, "////")):
        axes.bar(
            starts[side],
            counts[side],
            edges[1] - edges[0],
            align="edge",
            color=color,
            edgecolor="white",
            hatch=hatch,
            label=None if hatch else label,
        )
    axes.set_ylim(0, 1.05 * max(1, counts.max()))
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1.2)
    axes.set_ylabel("rows")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    bare(axes)
    # above the panel, where no bar can hide it
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderaxespad=0)


def _summary(name: str, values: np.ndarray, threshold: float) -> str:
    share = f"{name}: {(values > threshold).mean():.0%} of {len(values):,} rows above threshold"
    hidden = {
        "at −∞ (constant weights)": values == -np.inf,
        f"below {LOWEST:.0f}": np.isfinite(values) & (values < LOWEST),
        f"above {HIGHEST:.0f}": np.isfinite(values) & (values > HIGHEST),
        "at +∞ (no fit)": values == np.inf,
    }
    counts = {where: int(rows.sum()) for where, rows in hidden.items()}
    parts = [f"{count:,} {where}" for where, count in counts.items() if count]
    return f"{share}\nnot drawn: {', '.join(parts)}" if parts else share


def _edges_through(threshold: float, values: np.ndarray) -> np.ndarray:
    # the threshold is an edge, so that no bar lies on both sides of it
    shown = np.append(values[_is_drawn(values)], [threshold - 0.5, threshold + 0.5])
    width = float(np.ptp(shown)) / NUM_BINS
    below = np.ceil((threshold - shown.min()) / width)
    above = np.ceil((shown.max() - threshold) / width)
    return threshold + width * np.arange(-below - 1, above + 2)


def _is_drawn(values: np.ndarray) -> np.ndarray:
    return (values >= LOWEST) & (values <= HIGHEST)


def _checked(name: str, khat: Tensor) -> np.ndarray:
    values = to_numpy(khat).reshape(-1)
    num_nan = int(np.isnan(values).sum())
    if not len(values) or num_nan:
        raise ValueError(
            f"expected at least one k-hat and none NaN for guide {name!r}; got {len(values)} "
            f"values, {num_nan} of them NaN."
        )
    return values
