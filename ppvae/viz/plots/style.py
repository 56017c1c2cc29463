r"""What all figures share: colours with a second sign beside them, and the way into NumPy."""

__all__ = ["BLUE", "MARKERS", "ORANGE", "PALETTE", "bare", "to_numpy"]

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

# Okabe, Ito (2008). Color universal design. Yellow is left out: it vanishes on white.
BLUE, ORANGE = "#0072B2", "#E69F00"
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
# as many markers as no multiple of the colours, so that pairs of both repeat late
MARKERS = ("o", "s", "^", "D", "v", "X", "<", ">", "p", "*", "h")


def bare(axes: Axes) -> None:
    """Leave only the two axis lines that carry numbers."""
    axes.spines[["top", "right"]].set_visible(False)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Values of a tensor on any device, with or without gradient."""
    values = tensor.detach().cpu()
    # NumPy has no bfloat16
    return (values.float() if values.is_floating_point() else values).numpy()
