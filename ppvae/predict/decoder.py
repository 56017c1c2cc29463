r"""The story run on latent draws: what its observed sites are drawn from then."""

__all__ = [
    "Take",
    "leaves",
    "mean_of",
    "mean_or_hold",
    "paired",
    "particle_steps",
    "value_of",
    "wanted_of",
]

from collections.abc import Callable, Collection
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.data import as_rows, to_batch
from ppvae.data.chunks import particle_step
from ppvae.problem.weights import check_pair
from ppvae.story import Layout, Sites, TensorDict, local_params, num_rows_of, particle_plate
from ppvae.story.batch import split_batch
from ppvae.story.handlers import Condition

# What is wanted of a traced site: its mean, or the value that was drawn, in Pyro's layout.
Take = Callable[[Any], Tensor]


def leaves(
    story: nn.Module,
    rows: TensorDict,
    latents: TensorDict,
    sites: Sites,
    held: Collection[str],
    wanted: Collection[str],
    take: Take,
) -> TensorDict:
    """What observed sites are drawn from once the latent ones are known.

    Arguments:
        story: The story.
        rows: Name -> `(B, *row)`.
        latents: Latent site -> `(S, B, *row)`.
        sites: The story's sites under these rows.
        held: Observed sites that stay at their data.
        wanted: Observed sites that are asked for; they are drawn anew.
        take: What is wanted of them.

    Returns:
        Name -> `(S, B, *row)`.
    """
    num_particles, num_rows = next(iter(latents.values())).shape[0], num_rows_of(rows)
    values = {name: rows[name] for name in held}
    if hasattr(story, "run_conditioned"):
        # An adopted model takes its rows as arguments, lets go of its observations when it
        # generates, and need not know particle dimensions: one run for each.
        each = [
            _run(story, rows, Condition(values, one, 0), wanted, take, num_rows)
            for one in ({k: v[s] for k, v in latents.items()} for s in range(num_particles))
        ]
        return {name: torch.stack([one[name] for one in each]) for name in wanted}
    dim = sites.particle_dim
    covariates = split_batch(story, rows)[1]
    with particle_plate(num_particles, dim):
        return _run(story, covariates, Condition(values, latents, dim), wanted, take, num_rows)


def _run(
    story: nn.Module,
    inputs: TensorDict,
    condition: Condition,
    wanted: Collection[str],
    take: Take,
    num_rows: int,
) -> TensorDict:
    """One run of the story under `condition`, and what is wanted of its sites, rows first."""
    with local_params(story), poutine.trace() as traced, condition:
        story(num_rows, **inputs)
    nodes: Any = traced.trace.nodes
    found = {}
    for name in wanted:
        node = nodes[name]
        layout = Layout.of(node["cond_indep_stack"], node["fn"].event_dim)
        found[name] = layout.to_rows(take(node), particle_dim=condition.particle_dim)
    return found


def value_of(node: Any) -> Tensor:
    """The value that a traced site was given or drew."""
    return node["value"].expand(node["fn"].shape())


def mean_of(node: Any, advice: str) -> Tensor:
    """Mean of a traced site's distribution, in Pyro's layout.

    Raises:
        ValueError: If it has none; `advice` says what to do.
    """
    fn = node["fn"]
    try:
        value = fn.mean
    except NotImplementedError:
        value = torch.tensor(torch.nan)
    if bool(torch.isnan(value).any()):
        base = fn
        while hasattr(base, "base_dist"):
            base = base.base_dist
        raise ValueError(
            f"site '{node['name']}': expected a distribution with a mean, got "
            f"{type(base).__name__}; {advice}"
        )
    return value.expand(fn.shape())


def mean_or_hold(node: Any) -> Tensor:
    """As `mean_of`, for functions that may be told to hold the site at its data."""
    return mean_of(node, f"hold it at its data with given=['{node['name']}']")


def wanted_of(sites: Sites, given: Collection[str]) -> list[str]:
    """Observed sites but those that are held at their data.

    Raises:
        ValueError: If `given` names no observed site.
    """
    unknown = sorted(set(given) - set(sites.observed))
    if unknown:
        raise ValueError(f"expected `given` among {sorted(sites.observed)}, got {unknown}")
    return [name for name in sites.observed if name not in given]


def paired(
    story: nn.Module, guide: nn.Module, data: Any, num_particles: int
) -> tuple[TensorDict, Sites]:
    """Data as a batch, and the story's sites under it, once story and guide are known to fit."""
    if num_particles < 1:
        raise ValueError(f"expected at least one particle, got num_particles={num_particles}")
    batch = to_batch(story, as_rows(data))
    return batch, check_pair(story, guide, batch)


def particle_steps(rows: TensorDict, num_particles: int) -> list[int]:
    """Sizes of the pieces in which the particles of these rows fit in memory."""
    step = particle_step(rows, num_rows_of(rows))
    return [min(step, num_particles - done) for done in range(0, num_particles, step)]
