r"""Which rows fail, how many, and in which direction: one point, or one count, a row."""

__all__ = ["direction_map", "khat_histogram", "khat_map"]

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .style import BLUE, ORANGE, PALETTE, finish, new_axes, to_numpy

NUM_BINS = 40
LOWEST, HIGHEST = -3.0, 3.0  # beyond these a k-hat only says "harmless" or "hopeless"
MAX_CLASSES = 20  # more distinct integers than this are a quantity, not labels
MAX_SCALE = 8.0  # times; a scale further off only says "hopeless"
TICKS = (1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0, 4.0, 8.0)


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
    rows = {name: to_numpy(values).reshape(-1) for name, values in khat.items()}
    for name, values in rows.items():
        num_nan = int(np.isnan(values).sum())
        if not len(values) or num_nan:
            raise ValueError(
                f"expected at least one k-hat and none NaN for guide {name!r}; got {len(values)} "
                f"values, {num_nan} of them NaN."
            )
    # the threshold is an edge, so that no bar lies on both sides of it
    everything = np.concatenate(list(rows.values()))
    shown = np.append(_inside(everything), [threshold - 0.5, threshold + 0.5])
    width = float(np.ptp(shown)) / NUM_BINS
    below = np.ceil((threshold - shown.min()) / width)
    above = np.ceil((shown.max() - threshold) / width)
    edges = threshold + width * np.arange(-below - 1, above + 2)
    figure = Figure(figsize=(7.5, 1.3 + 1.35 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for index, (axes, (name, values)) in enumerate(zip(grid, rows.items(), strict=True)):
        counts, _ = np.histogram(_inside(values), edges)
        bars = axes.bar(
            edges[:-1], counts, width, align="edge", color=PALETTE[index % len(PALETTE)],
            edgecolor="white", label=_khat_label(name, values, threshold),
        )  # fmt: skip
        for bar in bars:
            bar.set_hatch("////" if bar.get_x() >= threshold else "")
        axes.set_ylim(0, 1.05 * max(1, counts.max()))
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1.2)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        # above the panel, where no bar can hide it
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderaxespad=0, handlelength=0
        )
        finish(axes, ylabel="rows")
    grid[-1].set_xlabel(rf"$\hat{{k}}$ (dashed: threshold {threshold:.2f}; hatched: above it)")
    figure.suptitle("k-hat of the importance weights of each row")
    return figure


def _inside(khat: np.ndarray) -> np.ndarray:
    return khat[(khat >= LOWEST) & (khat <= HIGHEST)]


def _khat_label(name: str, values: np.ndarray, threshold: float) -> str:
    share = f"{name}: {(values > threshold).mean():.0%} of {len(values):,} rows above threshold"
    hidden = {
        "at −∞ (constant weights)": values == -np.inf,
        f"below {LOWEST:.0f}": np.isfinite(values) & (values < LOWEST),
        f"above {HIGHEST:.0f}": np.isfinite(values) & (values > HIGHEST),
        "at +∞ (no fit)": values == np.inf,
    }
    parts = [f"{rows.sum():,} {where}" for where, rows in hidden.items() if rows.any()]
    return f"{share}\nnot drawn: {', '.join(parts)}" if parts else share


def khat_map(
    khat: Tensor,
    against: Tensor,
    threshold: float,
    *,
    label: str,
    title: str = "Which rows fail",
    axes: Axes | None = None,
) -> Figure:
    r"""One point a row; rows above the threshold are crosses.

    Arguments:
        khat: :math:`\hat k` of each row, dimensionless, with shape :math:`(B,)`; drawn within ±3.
        against: What to hold it against: reconstruction error, gap, a covariate; or a label,
            integers of at most 20 kinds, where each class gets a column and its share of failing
            rows; :math:`(B,)`.
        threshold: Largest trustworthy :math:`\hat k`, dimensionless.
        label: What `against` is, with its unit.
        title: What the figure asks.
        axes: Where to draw; a new figure if None.

    Returns:
        The figure.

    Raises:
        ValueError: If the lengths differ or there is no row.
    """
    _check_rows(khat, against)
    axes = axes or new_axes()
    x, y = to_numpy(against), to_numpy(khat.clamp(LOWEST, HIGHEST))
    bad = to_numpy(khat) > threshold
    if x.dtype.kind in "iub" and len(np.unique(x)) <= MAX_CLASSES:
        classes, column = np.unique(x, return_inverse=True)
        top = float(max(y.max(), threshold))
        for at, name in enumerate(classes):
            axes.annotate(
                f"{bad[x == name].mean():.0%}", (at, top), (0, 6), textcoords="offset points",
                ha="center", fontsize=8,
            )  # fmt: skip
        axes.set_xticks(range(len(classes)), [str(name) for name in classes])
        axes.margins(y=0.12)
        x = column + np.random.default_rng(0).uniform(-0.3, 0.3, len(x))
    axes.axhline(threshold, color="black", linestyle="--", linewidth=1.0)
    ylabel = r"$\hat{k}$ (dimensionless; dashed: threshold)"
    return _scatter(axes, x, y, bad, title=title, xlabel=label, ylabel=ylabel)


def direction_map(
    scale: Tensor,
    shift: Tensor,
    failing: Tensor,
    *,
    title: str = "In which direction rows are off",
    unit: str = "sd of the guide",
    words: tuple[str, str] = ("trusted", "not trusted"),
    axes: Axes | None = None,
) -> Figure:
    r"""How each row's guide is off: to the left too narrow, to the right too wide, upwards shifted.

    Arguments:
        scale: Standard deviation of the guide over that of the posterior, with shape :math:`(B,)`;
            drawn between 1/8 and 8.
        shift: Distance of the means, :math:`(B,)`.
        failing: True for rows that fail, :math:`(B,)`; where their weights are not to be trusted,
            both are understated.
        title: What the figure asks.
        unit: Unit of `shift`.
        words: What rows that pass and rows that fail are called.
        axes: Where to draw; a new figure if None.

    Returns:
        The figure.

    Raises:
        ValueError: If the lengths differ or there is no row.
    """
    _check_rows(scale, shift)
    _check_rows(failing, shift)
    axes = axes or new_axes()
    x = to_numpy(scale.clamp(1 / MAX_SCALE, MAX_SCALE))
    axes.axvline(1, color="black", linestyle="--", linewidth=1.0)
    limit = max(1.25, 1.1 * float(np.exp(np.abs(np.log(x)).max())))
    ticks = [1.0]
    for tick in TICKS:
        if tick <= limit and tick - ticks[-1] >= (limit - 1) / 4:  # closer ones would touch
            ticks.append(tick)
    ticks = [1 / tick for tick in ticks[:0:-1]] + ticks
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(1 / limit, limit)
    xlabel = "scale, guide over posterior (left: too narrow; right: too wide)"
    bad = to_numpy(failing).astype(bool)
    return _scatter(
        axes, x, to_numpy(shift), bad, words, 0.0, title=title, xlabel=xlabel,
        ylabel=f"shift of the mean ({unit})",
    )  # fmt: skip


def _check_rows(one: Tensor, other: Tensor) -> None:
    if one.dim() != 1 or one.shape != other.shape or not len(one):
        raise ValueError(
            f"expected two numbers for each of at least one row; got shapes {tuple(one.shape)} and "
            f"{tuple(other.shape)}."
        )


def _scatter(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    bad: np.ndarray,
    words: tuple[str, str] = ("trusted", "not trusted"),
    bottom: float | None = None,
    **labels: str,
) -> Figure:
    """Dots, crosses where `bad`, and a legend above them."""
    axes.scatter(x[~bad], y[~bad], s=10, color=BLUE, marker="o", alpha=0.6, label=words[0])
    share = f"{words[1]} ({bad.mean():.0%})"
    axes.scatter(x[bad], y[bad], s=18, color=ORANGE, marker="x", label=share)
    axes.set_ylim(bottom=bottom)
    axes.legend(  # on white, so that no line runs through it
        loc="upper center", ncols=2, framealpha=1, edgecolor="none", fontsize="small"
    )
    return finish(axes, headroom=0.12, **labels)
