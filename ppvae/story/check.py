r"""The story doctor: one clear message per fault, before any training."""

__all__ = ["check_story"]

import inspect

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ppvae.story.batch import Batch, as_batch, num_rows_of
from ppvae.story.conditioning import simulate, trace_sites
from ppvae.story.density import LogJoint
from ppvae.story.programs import program_of
from ppvae.story.running import TensorDict, eval_mode
from ppvae.story.sites import Sites
from ppvae.story.validation import check_data, parent_sites

NUM_PARTICLES = 3
NUM_ROWS = 3
CANNOT_RUN = (RuntimeError, TypeError, IndexError, AttributeError)


def check_story(story: nn.Module, batch: Batch | None = None) -> Sites:
    """Check that a story keeps the contract, and that data fit it.

    Checks, in this order: it is a module whose `forward(n, ...)` runs; its rows stand in a plate
    called `data` and it observes nothing by itself; the data have its shapes and lie in its
    supports; a row's shape does not depend on how many rows there are; it accepts leading particle
    dimensions; its rows do not touch each other.

    Arguments:
        story: The story.
        batch: Rows to check with, name -> `(B, *event)`; without them the story is checked on rows
            that it generates itself, all sites without descendants taken as observed.

    Returns:
        The story's sites.

    Raises:
        ValueError: At the first fault: what was expected, what came, at which site, what to do.
    """
    _check_signature(story)
    if batch is None:
        batch = _generated(story)
    batch = as_batch(batch)
    num_rows_of(batch)
    try:
        sites = check_data(story, batch)
        _check_sizes(story, batch, sites)
    except CANNOT_RUN as error:
        raise ValueError(_cannot_run(story, error)) from error
    _check_no_batch_norm(story)
    few = _repeated(batch, NUM_ROWS)
    latents = _prior_particles(story, few, sites)
    if latents:
        with torch.no_grad(), eval_mode(story):
            _compare_scores(story, few, latents, sites)
    return sites


def _check_signature(story: nn.Module) -> None:
    if not isinstance(story, nn.Module):
        raise ValueError(
            f"expected a story (a PyroModule whose forward(n) generates n rows), got "
            f"{type(story).__name__}; wrap a plain Pyro model with ppvae.adopt(model, guide)"
        )
    if program_of(story).generates_rows:
        names = list(inspect.signature(story.forward).parameters)
        if not names:
            raise ValueError(
                f"expected {type(story).__name__}.forward(n, **covariates) to take the number of "
                "rows `n` first, got no arguments"
            )


def _cannot_run(story: nn.Module, error: Exception) -> str:
    return (
        f"expected {type(story).__name__}.forward(n) to generate n rows, got "
        f"{type(error).__name__}: {error}; covariates go in the batch, and a model(x) that takes "
        "its data is wrapped by ppvae.adopt(model, guide)"
    )


def _generated(story: nn.Module) -> TensorDict:
    """Rows of the story's own, its childless local sites taken as observed."""
    try:
        rows = simulate(story, NUM_ROWS, seed=0)
        leaves = set(rows) - parent_sites(story, {}, NUM_ROWS)
    except CANNOT_RUN as error:
        raise ValueError(_cannot_run(story, error)) from error
    keep = {k: v for k, v in rows.items() if k in leaves and v.shape[:1] == (NUM_ROWS,)}
    if not keep:
        raise ValueError(f"expected a site that data can show, got only {sorted(rows)}")
    return keep


def _repeated(batch: TensorDict, num_rows: int) -> TensorDict:
    """Exactly so many rows, the first ones again where there are fewer."""
    index = torch.arange(num_rows) % num_rows_of(batch)
    return {k: v[index.to(v.device)] for k, v in batch.items()}


def _check_sizes(story: nn.Module, batch: TensorDict, sites: Sites) -> None:
    """A site without `to_event` may fit some number of rows by chance, but not two of them."""
    for num_rows in (2, NUM_ROWS):
        for name, site in trace_sites(story, _repeated(batch, num_rows)).items():
            if site.row_shape != sites[name].row_shape:
                raise ValueError(
                    f"site '{name}': expected one shape for each row, got {tuple(site.row_shape)} "
                    f"in {num_rows} rows and {tuple(sites[name].row_shape)} in more; declare "
                    "event dimensions with .to_event(1)"
                )


def _check_no_batch_norm(story: nn.Module) -> None:
    for name, part in story.named_modules():
        if isinstance(part, _BatchNorm):
            raise ValueError(
                f"'{name}': expected each row to be scored by itself, got {type(part).__name__}, "
                "which mixes the rows of a batch in training; use nn.LayerNorm or nn.GroupNorm"
            )


def _prior_particles(story: nn.Module, batch: TensorDict, sites: Sites) -> TensorDict:
    """A few draws of the latent sites from the story itself, particles stacked in front."""
    inputs, n = program_of(story).inputs(batch), num_rows_of(batch)
    draws = [simulate(story, n, seed=seed, **inputs) for seed in range(NUM_PARTICLES)]
    return {name: torch.stack([d[name] for d in draws]) for name in sites.latent}


def _compare_scores(story: nn.Module, batch: TensorDict, latents: TensorDict, sites: Sites) -> None:
    """Scores of particles and rows must not depend on what stands beside them."""
    try:
        together = LogJoint(story, batch, sites)(latents)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            "expected the story to accept leading particle dimensions (S, B, ...) in its latent "
            f"sites, got: {error}; use layers that act on the last dimension, as ppvae.nets does"
        ) from error
    tolerance = 1e-4 * (1 + together.abs())
    one = LogJoint(story, batch, sites)({k: v[:1] for k, v in latents.items()})
    if not bool(((one[0] - together[0]).abs() <= tolerance[0]).all()):
        raise ValueError(
            "expected each particle to be scored by itself, got a score that changes with the "
            "particles beside it; look for reshapes or normalisation over leading dimensions"
        )
    first_row = LogJoint(story, {k: v[:1] for k, v in batch.items()}, sites)
    row = {k: v[:, :1] if sites[k].is_local else v for k, v in latents.items()}
    if not bool(((first_row(row)[:, 0] - together[:, 0]).abs() <= tolerance[:, 0]).all()):
        raise ValueError(
            "expected each row to be scored by itself, got a score that changes with the rows "
            "beside it; look for batch normalisation or sums over rows in the story"
        )
