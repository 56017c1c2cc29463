r"""What is asked of a distribution at a site, whatever wraps it."""

__all__ = ["base_distribution", "distribution_mean"]

from typing import Any

import torch
from torch import Tensor


def base_distribution(fn: Any) -> Any:
    """A distribution without its wrappings."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def distribution_mean(name: str, fn: Any, advice: str) -> Tensor:
    """Mean of a site's distribution, in Pyro's layout.

    Raises:
        ValueError: If it has none; `advice` says what to do.
    """
    try:
        mean = fn.mean
    except NotImplementedError:
        mean = torch.tensor(torch.nan)
    if bool(torch.isnan(mean).any()):
        kind = type(base_distribution(fn)).__name__
        raise ValueError(
            f"site '{name}': expected a distribution with a mean, got {kind}; {advice}"
        )
    return mean.expand(fn.shape())
