r"""Bars that split what a guide loses into what its family and what its encoder loses."""

__all__ = ["gap_bars"]

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import BLUE, ORANGE, finish, format_nats


def gap_bars(
    names: Sequence[str],
    approximation_gap: Sequence[tuple[float, float]],
    amortization_gap: Sequence[tuple[float, float]],
    *,
    compact: bool = False,
) -> Figure:
    r"""Inference gap of each guide, split into what its family and what its encoder loses.

    Negative parts, which Monte Carlo error allows, are drawn to the left of zero.

    Arguments:
        names: Guides, one to about ten.
        approximation_gap: (value, standard error) of each guide, in nats per row.
        amortization_gap: The same for the amortization gap.
        compact: Leave the numbers out, for narrow pages.

    Returns:
        One stacked bar per guide, the first guide on top, with the numbers in columns beside it.

    Raises:
        ValueError: If there is no guide, the lengths differ, a number is not finite, or a standard
            error is negative.
    """
    approximation = _checked(names, approximation_gap, "approximation_gap")
    amortization = _checked(names, amortization_gap, "amortization_gap")
    total = approximation[:, 0] + amortization[:, 0]
    # parts of one sign stand end to end, parts of unlike sign on the two sides of zero
    same_sign = approximation[:, 0] * amortization[:, 0] > 0
    start = np.where(same_sign, approximation[:, 0], 0.0)

    figure = Figure(figsize=(9.5, 1.9 + 0.5 * len(names)), layout="constrained")
    columns = 1 if compact else 2
    axes, *tables = figure.subplots(
        1, columns, width_ratios=(3, 2)[:columns], sharey=True, squeeze=False
    )[0]
    rows = np.arange(len(names))
    label = "inference gap = approximation + amortization"
    for left, pairs, color, hatch, shift, name in (
        (0.0 * start, approximation, BLUE, "", -0.12, "approximation gap"),
        (start, amortization, ORANGE, "////", 0.12, "amortization gap"),
    ):
        value, error = pairs.T
        axes.barh(
            rows, value, 0.6, left=left, color=color, hatch=hatch, edgecolor="white", label=name
        )
        # shifted, so that the whiskers of a short second part do not lie on those of the first
        axes.errorbar(left + value, rows + shift, xerr=error, fmt="none", ecolor="black", capsize=3)
    axes.plot(total, rows, "D", color="black", mfc="white", ms=6, label=label)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(rows, names, fontsize=11)
    axes.set_ylim(len(names) - 0.5, -0.6)
    finish(axes, xlabel="gap (nats per row; lower is better; whiskers: one standard error)")
    for table in tables:
        table.set_axis_off()
        _column(table, 0.36, "approximation", [format_nats(*pair) for pair in approximation])
        _column(table, 0.71, "amortization", [format_nats(*pair) for pair in amortization])
        _column(table, 1.0, "inference", [f"{v:.2f}".replace("-", "−") for v in total])
    figure.suptitle("Where each guide loses its nats")
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    handles[label] = handles.pop(label)  # the sum stands last
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=1 if compact else 3,
        frameon=False,
    )  # fmt: skip
    return figure


def _column(axes: Axes, x: float, heading: str, numbers: Sequence[str]) -> None:
    # x: right end of the column, as a share of the axis width; y: in rows
    where = axes.get_yaxis_transform()
    axes.text(x, -0.65, heading, transform=where, ha="right", va="bottom", fontweight="bold")
    for row, number in enumerate(numbers):
        axes.text(x, row, number, transform=where, ha="right", va="center")


def _checked(names: Sequence[str], gap: Sequence[tuple[float, float]], what: str) -> np.ndarray:
    pairs = np.asarray(gap, dtype=float)
    if len(names) == 0 or pairs.shape != (len(names), 2):
        raise ValueError(
            f"expected one (value, standard error) pair in {what} for each of at least one guide; "
            f"got {len(names)} names and shape {pairs.shape}."
        )
    is_bad = ~np.isfinite(pairs).all(1) | (pairs[:, 1] < 0)
    if is_bad.any():
        guides = [name for name, bad in zip(names, is_bad, strict=True) if bad]
        raise ValueError(
            f"expected finite nats and standard errors of zero or more in {what}; "
            f"got {pairs[is_bad].tolist()} for {guides}. Measure these guides again."
        )
    return pairs
