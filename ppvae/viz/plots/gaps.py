r"""Bars that split what a guide loses into the fault of its family and of its encoder."""

__all__ = ["gap_bars"]

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import BLUE, ORANGE, bare


def gap_bars(
    names: Sequence[str],
    approximation_gap: Sequence[tuple[float, float]],
    amortization_gap: Sequence[tuple[float, float]],
) -> Figure:
    r"""Inference gap of each guide, split into what its family and what its encoder loses.

    Negative parts, which Monte Carlo error allows, are drawn to the left of zero.

    Arguments:
        names: Guides, one to about ten.
        approximation_gap: (value, standard error) of each guide, in nats per row.
        amortization_gap: The same for the amortization gap.

    Returns:
        One stacked bar per guide, the first guide on top, with the numbers in columns beside it.

    Raises:
        ValueError: If there is no guide, the lengths differ, a number is not finite, or a standard
            error is negative.
    """
    approximation = _pairs(names, approximation_gap, "approximation_gap")
    amortization = _pairs(names, amortization_gap, "amortization_gap")
    total = approximation[:, 0] + amortization[:, 0]
    # parts of one sign stand end to end, parts of unlike sign on the two sides of zero
    joined = approximation[:, 0] * amortization[:, 0] > 0
    start = np.where(joined, approximation[:, 0], 0.0)

    figure = Figure(figsize=(9.5, 1.9 + 0.5 * len(names)), layout="constrained")
    axes, table = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    _bars(axes, approximation, np.zeros(len(names)), BLUE, "", -0.12, "approximation gap")
    _bars(axes, amortization, start, ORANGE, "////", 0.12, "amortization gap")
    rows = np.arange(len(names))
    label = "inference gap = approximation + amortization"
    axes.plot(total, rows, "D", color="black", mfc="white", ms=6, label=label)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(rows, names, fontsize=11)
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.set_xlabel("gap (nats per row; lower is better; whiskers: one standard error)")
    bare(axes)
    table.set_axis_off()
    _column(table, 0.36, "approximation", [_number(v, e) for v, e in approximation])
    _column(table, 0.71, "amortization", [_number(v, e) for v, e in amortization])
    _column(table, 1.0, "inference", [f"{v:.2f}" for v in total])
    figure.suptitle("Where each guide loses its nats")
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(3), key=lambda i: labels[i] == label)  # parts first, their sum last
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    return figure


def _bars(
    axes: Axes,
    pairs: np.ndarray,
    start: np.ndarray,
    color: str,
    hatch: str,
    shift: float,
    label: str,
) -> None:
    rows = np.arange(len(pairs))
    value, std_error = pairs.T
    axes.barh(
        rows, value, 0.6, left=start, color=color, hatch=hatch, edgecolor="white", label=label
    )
    # shifted, so that the whiskers of a short second part do not lie on those of the first
    axes.errorbar(
        start + value, rows + shift, xerr=std_error, fmt="none", ecolor="black", capsize=3
    )


def _number(value: float, std_error: float) -> str:
    digits = 3 if 0 < std_error < 0.0095 else 2  # never "± 0.00" where an error is known
    return f"{value:.{digits}f} ± {std_error:.{digits}f}"


def _column(axes: Axes, x: float, heading: str, numbers: Sequence[str]) -> None:
    # x: right end of the column, as a share of the axis width; y: in rows
    where = axes.get_yaxis_transform()
    axes.text(x, -0.65, heading, transform=where, ha="right", va="bottom", fontweight="bold")
    for row, number in enumerate(numbers):
        # a true minus sign is as wide as a digit
        text = number.replace("-", "−")
        axes.text(x, row, text, transform=where, ha="right", va="center")


def _pairs(names: Sequence[str], gap: Sequence[tuple[float, float]], what: str) -> np.ndarray:
    pairs = np.asarray(gap, dtype=float)
    if len(names) == 0 or pairs.shape != (len(names), 2):
        raise ValueError(
            f"expected one (value, standard error) pair in {what} for each of at least one guide; "
            f"got {len(names)} names and shape {pairs.shape}."
        )
    faulty = ~np.isfinite(pairs).all(1) | (pairs[:, 1] < 0)
    if faulty.any():
        guides = [name for name, bad in zip(names, faulty, strict=True) if bad]
        raise ValueError(
            f"expected finite nats and standard errors of zero or more in {what}; "
            f"got {pairs[faulty].tolist()} for {guides}. Measure these guides again."
        )
    return pairs
