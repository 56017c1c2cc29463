r"""What a trained story and guide say: new rows, rows encoded and decoded, missing values, paths
through the latent sites.

`generate` and `traverse` need the story alone; `embed`, `reconstruct`, `impute`, `impute_point`,
`interpolate` and `latent_traversals` need the guide too.
"""

__all__ = [
    "LatentTraversals",
    "embed",
    "generate",
    "impute",
    "impute_point",
    "interpolate",
    "latent_traversals",
    "reconstruct",
    "traverse",
]

from .embed import embed
from .generate import generate, traverse
from .impute import impute, impute_point
from .interpolate import interpolate
from .reconstruct import reconstruct
from .traversals import LatentTraversals, latent_traversals
