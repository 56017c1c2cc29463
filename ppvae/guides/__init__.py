r"""Guides: amortized posteriors made from a story's own trace. One family a file, one row in `FAMILIES`."""

from typing import Any

from torch import nn

from ppvae.guides.amortized import Guide
from ppvae.guides.auxiliary import Auxiliary
from ppvae.guides.base import GuideBase
from ppvae.guides.bidirectional import Bidirectional
from ppvae.guides.categorical import Categorical
from ppvae.guides.concrete import Concrete
from ppvae.guides.enumerated import Enumerated
from ppvae.guides.families import PLAIN
from ppvae.guides.full_rank import FullRank
from ppvae.guides.householder import Householder
from ppvae.guides.iaf import IAF
from ppvae.guides.ladder import Ladder
from ppvae.guides.low_rank import LowRank
from ppvae.guides.mean_field import MeanField
from ppvae.guides.mixture import Mixture
from ppvae.guides.nsf import NSF
from ppvae.guides.planar import Planar
from ppvae.guides.realnvp import RealNVP
from ppvae.guides.semi_amortized import SemiAmortized
from ppvae.guides.structured import Structured
from ppvae.guides.suggest import suggest
from ppvae.guides.sylvester import Sylvester
from ppvae.guides.unamortized import LocalGuide
from ppvae.guides.vector_quantized import VectorQuantized
from ppvae.options import options_of, refuse_unknown_options

__all__ = [
    "FAMILIES",
    "IAF",
    "NSF",
    "Auxiliary",
    "Bidirectional",
    "Categorical",
    "Concrete",
    "Enumerated",
    "FullRank",
    "Guide",
    "GuideBase",
    "Householder",
    "Ladder",
    "LocalGuide",
    "LowRank",
    "MeanField",
    "Mixture",
    "Planar",
    "RealNVP",
    "SemiAmortized",
    "Structured",
    "Sylvester",
    "VectorQuantized",
    "build",
    "suggest",
]

FAMILIES: dict[str, type[Guide]] = {**PLAIN, "semi_amortized": SemiAmortized}


def build(
    name: str, /, story: nn.Module, data: Any, *, encoder: nn.Module | None = None, **options: Any
) -> Guide:
    """Make a guide of the named family for a story.

    Arguments:
        name: A key of `FAMILIES`; positional, since guides have an option `name`.
        story: The story.
        data: Rows like those to come, anything that `ppvae.data.as_rows` takes.
        encoder: From a batch's rows to `(B, features)`; None chooses by their shape.
        options: Further arguments of the family's class.

    Returns:
        The guide, with all its parameters.

    Raises:
        ValueError: If the family or an option is unknown, or the story does not suit it.
    """
    if name not in FAMILIES:
        raise ValueError(f"expected a guide among {', '.join(FAMILIES)}; got '{name}'")
    inner = PLAIN.get(options.get("family", ""))  # what it wraps has options too
    given = set(options) - set(options_of(inner, Guide) if inner else ())
    refuse_unknown_options(f"guide '{name}'", FAMILIES[name], Guide, given)
    return FAMILIES[name](story, data, encoder=encoder, **options)
