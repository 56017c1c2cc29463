r"""The story doctor: one clear message per fault, before any training."""

__all__ = ["check_data", "check_story"]

import inspect
from collections.abc import Mapping

import torch
from pyro.infer.inspect import get_dependencies
from torch import Tensor, nn

from ppvae.story.observe import (
    Batch,
    LogJoint,
    as_batch,
    num_rows_of,
    simulate,
    sites_of,
    split_batch,
)
from ppvae.story.program import TensorDict, local_params, seeded
from ppvae.story.sites import Sites

NUM_PARTICLES = 3


def check_story(story: nn.Module, batch: Batch | None = None) -> Sites:
    """Check that a story keeps the contract, and that data fit it.

    Checks, in this order: it is a module whose `forward(n, ...)` runs; it observes nothing by itself; its
    rows stand in a plate called `data`; it accepts leading particle dimensions; its rows do not touch
    each other; the data have its shapes and lie in its supports.

    Arguments:
        story: The story.
        batch: Rows to check with, name -> `(B, *event)`; without them the story is checked on rows that
            it generates itself, all sites without descendants taken as observed.

    Returns:
        The story's sites.

    Raises:
        ValueError: At the first fault: what was expected, what came, at which site, what to do.
    """
    _check_signature(story)
    if batch is None:
        batch = _generated(story)
    batch = as_batch(batch)
    sites = check_data(story, batch)
    few = {k: v[:NUM_PARTICLES] for k, v in batch.items()}
    _check_particles_and_rows(story, few, sites)
    return sites


def check_data(story: nn.Module, batch: Batch) -> Sites:
    """Check that a batch has the story's shapes, lies in its supports, and misses only what it may.

    Arguments:
        story: The story.
        batch: Name -> `(B, *event)`.

    Returns:
        The story's sites under this batch.

    Raises:
        ValueError: At the first fault.
    """
    batch = as_batch(batch)
    sites = sites_of(story, batch)
    if hasattr(story, "run_conditioned"):
        _refuse_missing(batch, set(batch), "an adopted model observes its data itself")
        return sites
    values, covariates = split_batch(story, batch)
    _refuse_missing(covariates, set(covariates), "a covariate cannot be missing")
    for name, value in values.items():
        _check_support(name, value, sites)
    missing = {n for n, v in values.items() if bool(torch.isnan(v).any())}
    if missing:
        with_children = missing & _parents(story, covariates)
        _refuse_missing(
            values, with_children, "other sites depend on it, so a missing value cannot be skipped"
        )
    return sites


def _check_signature(story: nn.Module) -> None:
    if not isinstance(story, nn.Module):
        raise ValueError(
            f"expected a story (a PyroModule whose forward(n) generates n rows), got "
            f"{type(story).__name__}; wrap a plain Pyro model with ppvae.adopt(model, guide)"
        )
    if not hasattr(story, "run_conditioned"):
        names = list(inspect.signature(story.forward).parameters)
        if not names:
            raise ValueError(
                f"expected {type(story).__name__}.forward(n, **covariates) to take the number of rows "
                "`n` first, got no arguments"
            )


def _generated(story: nn.Module) -> TensorDict:
    """Rows of the story's own, its childless local sites taken as observed."""
    try:
        rows = simulate(story, NUM_PARTICLES, seed=0)
        leaves = set(rows) - _parents(story, {})
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(
            f"expected {type(story).__name__}.forward(n) to generate rows, got: {error}; if it takes "
            "covariates, check it with a batch that holds them"
        ) from error
    keep = {k: v for k, v in rows.items() if k in leaves and v.shape[:1] == (NUM_PARTICLES,)}
    if not keep:
        raise ValueError(f"expected a site that data can show, got only {sorted(rows)}")
    return keep


def _parents(story: nn.Module, covariates: TensorDict) -> set[str]:
    """Sites that other sites depend on."""
    n = num_rows_of(covariates) if covariates else NUM_PARTICLES
    with local_params(story), seeded(0, story):
        found = get_dependencies(story, (n,), covariates)
    prior: Mapping[str, Mapping[str, object]] = found["prior_dependencies"]  # type: ignore[assignment]
    return {up for down, ups in prior.items() for up in ups if up != down}


def _check_support(name: str, value: Tensor, sites: Sites) -> None:
    site = sites[name]
    present = torch.nan_to_num(value, nan=0.0) if bool(torch.isnan(value).any()) else value
    inside = site.support.check(present)
    if value.dim() > inside.dim():
        missing = torch.isnan(value).flatten(inside.dim()).any(-1)
    else:
        missing = torch.isnan(value)
    bad = (~(inside | missing)).nonzero()
    if len(bad):
        row = int(bad[0, 0])
        entries = value[row].flatten()
        example = _outside(entries, site.support)
        raise ValueError(
            f"site '{name}': expected values in its support {site.support}, got {example:g} in row {row}"
            f"{_advice(site.support)}"
        )


def _outside(entries: Tensor, support: torch.distributions.constraints.Constraint) -> float:
    """An entry that lies outside, or the first entry where only the whole event does."""
    base = support
    while hasattr(base, "base_constraint"):
        base = base.base_constraint
    if base.event_dim == 0:
        outside = entries[~base.check(entries)]
        if len(outside):
            return float(outside[0])
    return float(entries[0])


def _advice(support: torch.distributions.constraints.Constraint) -> str:
    if "boolean" in str(support).lower():
        return "; binarise the data (ppvae.data.load(..., binarize='static')) or use another likelihood"
    return "; rescale the data or use another likelihood"


def _refuse_missing(batch: Mapping[str, Tensor], names: set[str], why: str) -> None:
    for name in sorted(names):
        value = batch[name]
        missing = (
            torch.isnan(value) if value.is_floating_point() else torch.zeros_like(value).bool()
        )
        if bool(missing.any()):
            row = int(missing.nonzero()[0, 0])
            raise ValueError(
                f"'{name}': expected no missing values (NaN), got one in row {row}; {why}"
            )


def _check_particles_and_rows(story: nn.Module, batch: TensorDict, sites: Sites) -> None:
    """Scores of particles and rows must not depend on what stands beside them."""
    latents = _prior_particles(story, batch, sites)
    if not latents:
        return
    was_training = story.training
    story.eval()
    try:
        with torch.no_grad():
            _compare_scores(story, batch, latents, sites)
    finally:
        story.train(was_training)


def _compare_scores(story: nn.Module, batch: TensorDict, latents: TensorDict, sites: Sites) -> None:
    try:
        together = LogJoint(story, batch, sites)(latents)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            "expected the story to accept leading particle dimensions (S, B, ...) in its latent sites, "
            f"got: {error}; use layers that act on the last dimension, as ppvae.nets does"
        ) from error
    tolerance = 1e-4 * (1 + together.abs())
    one = LogJoint(story, batch, sites)({k: v[:1] for k, v in latents.items()})
    if not bool(((one[0] - together[0]).abs() <= tolerance[0]).all()):
        raise ValueError(
            "expected each particle to be scored by itself, got a score that changes with the particles "
            "beside it; look for reshapes or normalisation over leading dimensions"
        )
    if sites.global_latent:
        return
    first_row = LogJoint(story, {k: v[:1] for k, v in batch.items()}, sites)
    alone = first_row({k: v[:, :1] for k, v in latents.items()})
    if not bool(((alone[:, 0] - together[:, 0]).abs() <= tolerance[:, 0]).all()):
        raise ValueError(
            "expected each row to be scored by itself, got a score that changes with the rows beside it; "
            "look for batch normalisation or sums over rows in the story"
        )


def _prior_particles(story: nn.Module, batch: TensorDict, sites: Sites) -> TensorDict:
    """A few draws of the latent sites from the story itself, particles stacked in front."""
    if hasattr(story, "run_conditioned"):
        return {}
    covariates = split_batch(story, batch)[1]
    n = num_rows_of(batch)
    draws = [simulate(story, n, seed=seed, **covariates) for seed in range(NUM_PARTICLES)]
    return {name: torch.stack([d[name] for d in draws]) for name in sites.latent}
