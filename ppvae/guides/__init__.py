r"""Guides: amortized posteriors made from a story's own trace; one family a file."""

from typing import Any

from torch import nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import GuideBase
from ppvae.guides.families import PLAIN
from ppvae.guides.semi_amortized import SemiAmortized
from ppvae.guides.suggest import suggest
from ppvae.guides.unamortized import LocalGuide
from ppvae.options import did_you_mean, options_of, refuse_unknown_options

FAMILIES: dict[str, type[Guide]] = {**PLAIN, "semi_amortized": SemiAmortized}
_CLASSES = {family.__name__: family for family in FAMILIES.values()}
globals().update(_CLASSES)  # the table is the one list of them: `ppvae.guides.MeanField`

__all__ = [
    "FAMILIES",
    "Guide",
    "GuideBase",
    "LocalGuide",
    "build",
    "suggest",
    *_CLASSES,
]


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
        hint = did_you_mean(name, FAMILIES)
        raise ValueError(f"expected a guide among {', '.join(FAMILIES)}; got '{name}'{hint}")
    inner = PLAIN.get(options.get("family", ""))  # what it wraps has options too
    given = set(options) - set(options_of(inner, Guide) if inner else ())
    refuse_unknown_options(f"guide '{name}'", FAMILIES[name], Guide, given)
    return FAMILIES[name](story, data, encoder=encoder, **options)
