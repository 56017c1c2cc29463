r"""Figures from plain results: numbers and tensors in, a matplotlib `Figure` out.

Every figure is readable in grey and by colour-blind eyes: the palette of Okabe and Ito goes with
hatches, line styles or markers, and labels stand where the data is. Nothing here touches pyplot or
any global setting; save a figure with `figure.savefig(path)`.
"""

__all__ = ["gap_bars", "image_grid", "khat_histogram", "latent_scatter", "training_curves"]

from .gaps import gap_bars
from .images import image_grid
from .khat import khat_histogram
from .latent import latent_scatter
from .training import training_curves
