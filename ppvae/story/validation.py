r"""Checks of data and guides against a story: shapes, supports, missing values, sites."""

__all__ = [
    "check_data",
    "check_guide_sites",
    "check_values",
    "parent_sites",
    "partially_observed",
    "site_dependencies",
]

from collections.abc import Collection, Mapping
from typing import Any

import torch
from pyro.infer.inspect import get_dependencies
from torch import Tensor, nn
from torch.distributions import constraints

from ppvae.story.batch import Batch, as_batch, num_rows_of, split_batch
from ppvae.story.conditioning import ROWS_TO_TRACE, trace_sites
from ppvae.story.enumeration import Configurations, enumerate_support
from ppvae.story.handlers import SampleRows, has_missing, valid_value
from ppvae.story.programs import program_of
from ppvae.story.running import TensorDict, local_params, seeded
from ppvae.story.sites import Site, Sites
from ppvae.story.supports import describe_support


def check_data(story: nn.Module, batch: Batch, sites: Sites | None = None) -> Sites:
    """Check that a batch has the story's shapes, lies in its supports, and misses only what it may.

    Arguments:
        story: The story.
        batch: Name -> `(B, *event)`.
        sites: The story's sites under rows of the same kind, if already known: nothing is traced.

    Returns:
        The story's sites under this batch.

    Raises:
        ValueError: At the first fault.
    """
    batch = as_batch(batch)
    num_rows_of(batch)
    if not program_of(story).generates_rows:
        _refuse_missing(batch, batch, "an adopted model observes its data itself")
        return trace_sites(story, batch) if sites is None else sites
    values, covariates = split_batch(story, batch)
    _refuse_missing(covariates, covariates, "a covariate cannot be missing")
    if sites is None:
        sites = trace_sites(story, batch)
    else:
        _check_shapes(sites, values)
    missing = check_values(sites, values)
    if missing:
        if sites.parents is None:
            sites.parents = parent_sites(story, covariates, ROWS_TO_TRACE)
        finite = partially_observed(story, batch, sites)
        if finite:
            Configurations(finite)  # refuses too many
        why = (
            "other sites depend on it and its values are not finitely many, so that a missing one "
            "can be neither left out nor summed over"
        )
        _refuse_missing(values, (set(missing) & sites.parents) - set(finite), why)
        _check_partly_missing(story, batch, missing)
    return sites


def _check_shapes(sites: Sites, values: TensorDict) -> None:
    for name, value in values.items():
        expected = sites[name].row_shape
        if value.shape[1:] != expected:
            raise ValueError(
                f"site '{name}': expected rows of shape {tuple(expected)}, got "
                f"{tuple(value.shape[1:])}; reshape the data or build the story for this shape"
            )


def check_values(sites: Sites, batch: TensorDict) -> TensorDict:
    """Check that the values of observed sites lie in their supports, or are missing.

    Arguments:
        sites: The story's sites.
        batch: Name -> `(B, *event)`; names that are no observed site are passed over.

    Returns:
        Where values are missing, name -> `(B, *event)` of bools, for the sites that miss some.

    Raises:
        ValueError: At the first value outside.
    """
    values = {k: v for k, v in batch.items() if k in sites.observed}
    missing = {k: torch.isnan(v) for k, v in values.items() if has_missing(v)}
    for name, value in values.items():
        _check_support(sites[name], value, missing.get(name))
    return missing


def check_guide_sites(drawn: SampleRows, sites: Sites) -> None:
    """Check what a guide drew: the story's latent sites, each inside or outside the plate as there.

    Finite discrete sites inside the plate may be left out: they are then summed over.

    Arguments:
        drawn: A run of the guide.
        sites: The story's sites.

    Raises:
        ValueError: If a site is missing, unknown, misplaced or of the wrong shape.
    """
    absent = Sites((n, s) for n, s in sites.latent.items() if n not in drawn.values)
    missing = sorted(n for n, s in absent.items() if not s.is_discrete)
    if missing:
        raise ValueError(
            f"expected the guide to sample every latent site of the story, got none for {missing}; "
            f"it samples {sorted(drawn.values)}"
        )
    unknown = sorted(set(drawn.values) - set(sites.latent))
    if unknown:
        raise ValueError(
            f"expected the guide to sample only latent sites {sorted(sites.latent)}, got also "
            f"{unknown}; mark auxiliary sites with infer={{'is_auxiliary': True}}"
        )
    if absent:
        Configurations(absent)  # refuses what cannot be summed over
    for name, site in sites.latent.items():
        if name in absent:
            continue
        if site.is_local != drawn.is_local[name]:
            where = "inside" if site.is_local else "outside"
            raise ValueError(
                f"site '{name}': expected the guide to sample it {where} the plate 'data', as the "
                "story does"
            )
        shape = drawn.values[name].shape[1 + site.is_local :]
        if shape != site.row_shape:
            raise ValueError(
                f"site '{name}': expected the guide to draw {tuple(site.row_shape)} in each row, "
                f"as the story does, got {tuple(shape)}; compare the plates and .to_event of both"
            )


def partially_observed(story: nn.Module, batch: TensorDict, sites: Sites) -> Sites:
    """Observed finite sites that other sites depend on and that some rows miss, such as labels:
    rows that miss them are summed over their values."""
    if not program_of(story).generates_rows:
        return Sites()
    finite = {
        n: s
        for n, s in sites.observed.items()
        if s.is_discrete
        and s.is_local
        and has_missing(batch[n], n)
        and enumerate_support(s) is not None
    }
    if not finite:
        return Sites()
    if sites.parents is None:
        covariates = program_of(story).split(batch)[1]
        sites.parents = parent_sites(story, covariates, ROWS_TO_TRACE)
    return Sites((n, s) for n, s in finite.items() if n in sites.parents)


def parent_sites(story: nn.Module, covariates: TensorDict, num_rows: int) -> set[str]:
    """Sites that other sites depend on."""
    return set[str]().union(*site_dependencies(story, covariates, num_rows).values())


def site_dependencies(
    story: nn.Module, covariates: TensorDict, num_rows: int
) -> dict[str, set[str]]:
    """Site -> the sites that it depends on directly."""
    few = {k: v[:num_rows] for k, v in covariates.items()}
    num_rows = num_rows_of(few) if few else num_rows
    with local_params(story), seeded(0, story):
        found: Any = get_dependencies(story, (num_rows,), few)
    prior: dict[str, dict[str, object]] = found["prior_dependencies"]
    return {down: {up for up in ups if up != down} for down, ups in prior.items()}


def _check_partly_missing(story: nn.Module, batch: TensorDict, missing: TensorDict) -> None:
    """Run the rows that miss some entries of a site: an event that cannot be split says so."""
    partly = torch.zeros(num_rows_of(batch), dtype=torch.bool)
    for entries in missing.values():
        flat = entries.flatten(1) if entries.dim() > 1 else entries.unsqueeze(-1)
        partly |= (flat.any(-1) & ~flat.all(-1)).to(partly.device)
    rows = partly.nonzero().flatten()
    for few in rows.split(ROWS_TO_TRACE) if len(rows) else ():
        trace_sites(story, {k: v[few.to(v.device)] for k, v in batch.items()})


def _check_support(site: Site, value: Tensor, missing: Tensor | None) -> None:
    if missing is not None:
        value = torch.where(missing, valid_value(site.support, value), value)
    inside = site.support.check(value)
    bad = (~inside).nonzero()
    if missing is not None and site.support.event_dim and _is_joint(site.support):
        whole = missing.flatten(missing.dim() - site.support.event_dim).any(-1)
        bad = (~inside & ~whole).nonzero()
    if len(bad):
        row = int(bad[0, 0])
        example = _outside(value[row].flatten(), site.support)
        raise ValueError(
            f"site '{site.name}': expected values in its support "
            f"({describe_support(site.support)}), got {example:g} in row "
            f"{row}{_advice(site.support)}"
        )


def _base(support: constraints.Constraint) -> constraints.Constraint:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _is_joint(support: constraints.Constraint) -> bool:
    """Whether membership is decided by a whole event, as on a simplex."""
    return _base(support).event_dim > 0


def _outside(entries: Tensor, support: constraints.Constraint) -> float:
    """An entry that lies outside, or the first entry where only the whole event does."""
    if not _is_joint(support):
        outside = entries[~_base(support).check(entries)]
        if len(outside):
            return float(outside[0])
    return float(entries[0])


def _advice(support: constraints.Constraint) -> str:
    if "boolean" in str(support).lower():
        return (
            "; binarise the data (ppvae.data.load(..., binarize='static')) or use another "
            "likelihood"
        )
    return "; rescale the data or use another likelihood"


def _refuse_missing(batch: Mapping[str, Tensor], names: Collection[str], why: str) -> None:
    for name in sorted(names):
        if has_missing(batch[name]):
            row = int(torch.isnan(batch[name]).nonzero()[0, 0])
            raise ValueError(
                f"'{name}': expected no missing values (NaN), got one in row {row}; {why}"
            )
