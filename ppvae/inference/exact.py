r"""log p(x) without Monte Carlo error: the story's own closed form, or the sum over all finite discrete sites."""

__all__ = ["exact_evidence", "knows_exact"]

from typing import Any

import torch
from torch import nn

from ppvae.data.chunks import row_slices
from ppvae.estimate import Estimate
from ppvae.inference.check_finite import check_finite
from ppvae.inference.pieces import rows_at_a_time
from ppvae.story import (
    Configurations,
    LogJoint,
    Sites,
    TensorDict,
    has_missing,
    seeded_eval,
    trace_sites,
)


def exact_evidence(story: nn.Module, batch: TensorDict) -> Estimate:
    """log p(x) of each row, with no error.

    Arguments:
        story: A story with a `log_evidence(batch)` of its own, or one whose latent sites are all finite and discrete.
        batch: Rows, name -> `(B, *event)`.

    Returns:
        `(B,)`, in nats.

    Raises:
        ValueError: If it is neither, values are missing that the closed form needs, or there are too many joint values.
    """
    with seeded_eval(0, story):  # Pyro's own argument checks name no row
        sites = trace_sites(story, batch)
    if _only_finite(sites):
        return _summed(story, batch, sites)
    closed_form: Any = getattr(story, "log_evidence", None)
    if closed_form is None:
        raise ValueError(
            f"expected {type(story).__name__} to define log_evidence(batch), its closed form, or to have only finite "
            f"discrete latent sites; it has {sorted(sites.latent)}, so use method 'iwae' or 'ais' with a guide"
        )
    missing = _missing(batch)
    if missing:
        raise ValueError(
            f"expected complete rows for the closed form of {type(story).__name__}, got missing values (NaN) in "
            f"{missing}; use 'iwae' or 'ais', which leave them out"
        )
    with torch.no_grad(), seeded_eval(0, story):
        found = Estimate.exact(closed_form(batch))
    check_finite(found.value, story, None, batch)
    return found


def knows_exact(story: nn.Module, batch: TensorDict) -> bool:
    """Whether `exact_evidence` has an answer for these rows."""
    sites = trace_sites(story, batch)
    if _only_finite(sites):
        try:
            Configurations(sites.local_latent)
        except ValueError:
            return False
        return True
    return hasattr(story, "log_evidence") and not _missing(batch)


def _missing(batch: TensorDict) -> list[str]:
    return sorted(name for name, value in batch.items() if has_missing(value))


def _only_finite(sites: Sites) -> bool:
    return bool(sites.latent) and all(s.is_local and s.is_discrete for s in sites.latent.values())


def _summed(story: nn.Module, batch: TensorDict, sites: Sites) -> Estimate:
    parts = []
    with torch.no_grad(), seeded_eval(0, story):
        for rows in row_slices(batch, rows_at_a_time(batch, None)):
            parts.append(LogJoint(story, rows, sites)({})[0])
    value = torch.cat(parts)
    check_finite(value, story, None, batch)
    return Estimate.exact(value)
