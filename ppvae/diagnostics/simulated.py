r"""Rows simulated from the story with the latent values behind them: what calibration is measured on."""

__all__ = ["Simulated", "simulate_pairs"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ppvae.data import to_batch
from ppvae.problem.particles import missing_as, refuse_local
from ppvae.problem.weights import check_pair, refuse_global
from ppvae.story import (
    Sites,
    TensorDict,
    num_rows_of,
    reference_tensor,
    seeded_eval,
    simulate,
    split_batch,
)
from ppvae.story.validation import parent_sites, partially_observed


@dataclass(frozen=True)
class Simulated:
    """Pairs (z, x) drawn from the story: the truth behind x is known.

    Arguments:
        rows: What the guide is shown, name -> `(N, *event)`: observed sites and covariates.
        truth: Latent site, and observed site that some rows miss, -> `(N, *row)`.
        sites: The story's sites.
    """

    rows: TensorDict
    truth: TensorDict
    sites: Sites


def simulate_pairs(
    story: nn.Module, guide: nn.Module, num_simulations: int, data: Any = None, seed: int = 0
) -> Simulated:
    """Draw rows like the data from the story, with exactly the keys that the guide was built for.

    Arguments:
        story: The story, whose latent sites are all inside the plate `data`.
        guide: An amortized guide.
        num_simulations: N.
        data: Rows that tell which sites are observed. Covariates and the pattern of missing entries are taken from
            rows of it drawn at random; missingness is taken not to depend on the values. None: the sites that no
            other site depends on are observed, in full, and the story takes no covariates.
        seed: Seed of the simulation.

    Raises:
        ValueError: If the story has global latent sites, the guide is local, or the keys of the data are no sites.
    """
    if num_simulations < 2:
        raise ValueError(
            f"expected at least two simulations, got num_simulations={num_simulations}"
        )
    refuse_local(guide, "calibration")
    like: TensorDict = {} if data is None else to_batch(story, data)
    with seeded_eval(seed, story):
        if like:
            picks = torch.randint(num_rows_of(like), (num_simulations,))
            like = {k: v[picks.to(v.device)] for k, v in like.items()}
        observed, covariates = _split(story, like)
        inputs: dict[str, Any] = covariates
        drawn = simulate(story, num_simulations, **inputs)
    unknown = sorted(set(observed) - set(drawn))
    if unknown:
        raise ValueError(
            f"expected data whose keys name sites or covariates of the story, got {unknown}; its sites are "
            f"{sorted(drawn)}: give data and sites the same names"
        )
    dtype = reference_tensor(story).dtype
    rows = {k: missing_as(drawn[k].to(dtype), like.get(k)) for k in observed}
    if not hasattr(story, "run_conditioned"):
        rows |= covariates
    sites = check_pair(story, guide, rows)
    refuse_global(sites, "calibration")
    unseen = [*sites.latent, *partially_observed(story, rows, sites)]
    return Simulated(rows, {k: drawn[k] for k in unseen}, sites)


def _split(story: nn.Module, like: TensorDict) -> tuple[list[str], TensorDict]:
    """Names of the observed sites, and covariates to simulate with."""
    if hasattr(story, "run_conditioned"):
        shapes: Any = story.row_shapes
        return list(like) or list(shapes), like
    values, covariates = split_batch(story, like)
    if like:
        return list(values), covariates
    probe = simulate(story, 3)
    parents = parent_sites(story, {}, 3)
    return [k for k, v in probe.items() if k not in parents and v.shape[:1] == (3,)], {}
