r"""Which families suit a story, read off its sites: what commands take where no guide is named."""

__all__ = ["suggest"]

from typing import Any

from torch import nn

from ppvae.data import to_batch
from ppvae.story import Configurations, Flat, Sites, enumerate_support, trace_sites

# Latent numbers of a row up to which a full covariance is cheap.
MANY_NUMBERS = 200
ROWS_TO_LOOK_AT = 100


def suggest(story: nn.Module, data: Any, *, with_local: bool = False) -> tuple[str, ...]:
    """Names of families that take a story, the plainest first.

    Arguments:
        story: The story.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        with_local: Whether only families are wanted for which a search of q* makes sense.

    Returns:
        Keys of `FAMILIES`.
    """
    sites = trace_sites(story, to_batch(story, data, ROWS_TO_LOOK_AT))
    dim = Flat(sites.local_continuous).dim
    if dim == 0:
        return _discrete(story, sites.local_discrete, with_local)
    if dim > MANY_NUMBERS:
        return ("mean_field", "low_rank", "householder")
    if dim == 1:
        return ("mean_field", "full_rank", "planar")
    return ("mean_field", "full_rank", "iaf")


def _discrete(story: nn.Module, sites: Sites, with_local: bool) -> tuple[str, ...]:
    """For discrete sites alone: summed over if few, else quantised (with a codebook) or drawn."""
    try:
        Configurations(sites)
    except ValueError:
        if hasattr(story, "codebook"):
            return ("categorical",) if with_local else ("vector_quantized", "categorical")
        return ("categorical", *_relaxed(sites))
    return ("enumerated", "categorical")


def _relaxed(sites: Sites) -> tuple[str, ...]:
    """`concrete` for one-hot sites and coins, whose values it can draw between."""
    entries = [values for site in sites.values() for values in enumerate_support(site) or ()]
    suits = all(v.is_floating_point() for v in entries)
    return ("concrete",) if suits else ()
