r"""What a trained story and guide say: new rows, rows encoded, decoded again, completed; walks through the latent sites.

Reading order: `leaves` (the story run on latent draws) and `moments` (what the guide draws in the mean), which the others
share; `generate` and `traverse` (the story alone); `embed`, `reconstruct`, `impute` and `fill` (story and guide); `walk`, and
`interpolate` on it.
"""

__all__ = ["embed", "fill", "generate", "impute", "interpolate", "reconstruct", "traverse"]

from .embed import embed
from .generate import generate, traverse
from .impute import impute
from .interpolate import interpolate
from .missing import fill
from .reconstruct import reconstruct
