r"""The figure page of a diagnosis: the plain plots of `ppvae.plots`, side by side."""

__all__ = ["draw_page"]

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMNS = 3
PANEL = (5.4, 4.2)  # inches

Panel = Callable[[Axes], object]


def draw_page(panels: Sequence[Panel], title: str) -> Figure:
    """Panels in rows of three, in the order of reading.

    Arguments:
        panels: Each draws into the axes that it is given.
        title: What was diagnosed.

    Raises:
        ValueError: If there is no panel.
    """
    if not panels:
        raise ValueError("expected at least one diagnostic that was measured, got none")
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * PANEL[0], rows * PANEL[1] + 0.4), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for draw, axes in zip(panels, grid, strict=False):
        draw(axes)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure
