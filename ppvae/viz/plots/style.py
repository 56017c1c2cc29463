r"""What all figures share: colours with a second sign beside them, axes, and the way into NumPy."""

__all__ = [
    "BLUE",
    "MARKERS",
    "ORANGE",
    "PALETTE",
    "finish",
    "format_nats",
    "new_axes",
    "style_of",
    "to_numpy",
]

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Okabe, Ito (2008). Color universal design. Yellow is left out: it vanishes on white.
BLUE, ORANGE = "#0072B2", "#E69F00"
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
# as many markers as no multiple of the colours, so that pairs of both repeat late
MARKERS = ("o", "s", "^", "D", "v", "X", "<", ">", "p", "*", "h")


def style_of(index: int) -> dict[str, Any]:
    """Colour and marker of the curve or class with this number."""
    return {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)]}


def new_axes(width: float = 6.5, height: float = 4.0) -> Axes:
    """Axes on a figure of their own, in inches. Nothing here touches pyplot."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def finish(axes: Axes, headroom: float = 0.0, **labels: Any) -> Figure:
    """Set labels, leave only the two axis lines that carry numbers, and return the figure.

    Arguments:
        axes: The axes.
        headroom: Room above the data for a legend, as a share of the axis.
        labels: As in `Axes.set`: `title`, `xlabel`, `ylabel`.
    """
    bottom, top = axes.get_ylim()
    if headroom:
        axes.set_ylim(bottom, top + headroom * (top - bottom))
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure


def format_nats(value: float, std_error: float) -> str:
    """A number with two decimals, or as many as its error needs, at most four."""
    digits = next((d for d in (2, 3) if not 0 < std_error < 0.95 * 10.0**-d), 4)
    text = f"{value:.{digits}f}"
    text = f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")  # as wide as a digit
    return f"{text} ± {std_error:.{digits}f}"


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Values of a tensor on any device, with or without gradient."""
    values = tensor.detach().cpu()
    # NumPy has no bfloat16
    return (values.float() if values.is_floating_point() else values).numpy()
