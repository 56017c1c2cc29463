r"""Figures from plain results: numbers and tensors in, a matplotlib `Figure` out.

Every figure is readable in grey and by colour-blind eyes: the palette of Okabe and Ito goes with
hatches, line styles or markers, and labels stand where the data is. Nothing here touches pyplot or
any global setting; save a figure with `figure.savefig(path)`.
"""

from .checks import calibration_curves, tail_dots, unit_bars
from .estimators import estimator_dots
from .gaps import gap_bars
from .images import image_grid, image_plane, picture_shape, plane
from .latent import latent_scatter
from .rows import direction_map, khat_histogram, khat_map
from .training import training_curves

__all__ = [
    "calibration_curves",
    "direction_map",
    "estimator_dots",
    "gap_bars",
    "image_grid",
    "image_plane",
    "khat_histogram",
    "khat_map",
    "latent_scatter",
    "picture_shape",
    "plane",
    "tail_dots",
    "training_curves",
    "unit_bars",
]
