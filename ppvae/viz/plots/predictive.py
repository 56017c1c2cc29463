r"""Predictive checks at a glance: where each statistic of the data lies among its replicates."""

__all__ = ["tail_dots"]

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import BLUE, ORANGE, bare


def tail_dots(
    tail_probability: Mapping[str, tuple[float, float]],
    extreme: float,
    *,
    title: str = "Predictive checks",
    axes: Axes | None = None,
) -> Figure:
    r"""One line a statistic; crosses stand where the data are unlike the replicates.

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
    if axes is None:
        height = 1.6 + 0.35 * len(tail_probability)
        axes = Figure(figsize=(6.5, height), layout="constrained").subplots()
    for side in ((-0.02, extreme), (1 - extreme, 1.02)):
        axes.axvspan(*side, color="0.85")
    for place, (value, error) in enumerate(tail_probability.values()):
        unlike = not extreme <= value <= 1 - extreme
        color, marker = (ORANGE, "X") if unlike else (BLUE, "o")
        axes.errorbar(value, place, xerr=error, color=color, marker=marker, capsize=2, markersize=7)
    axes.set_yticks(range(len(tail_probability)), list(tail_probability), fontsize=8)
    axes.set_ylim(len(tail_probability) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share of replicates above the data (grey: unlike)")
    axes.set_title(title)
    bare(axes)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure
