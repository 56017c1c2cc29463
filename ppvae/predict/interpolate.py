r"""The way from one row to another, through the latent sites."""

__all__ = ["interpolate"]

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data.chunks import is_unamortized, row_slices, rows_per_chunk
from ppvae.story import Sites, TensorDict, num_rows_of, seeded_eval, split_batch
from ppvae.story.validation import site_dependencies

from .decode import Walk
from .decoder import leaves, mean_or_hold, paired, particle_steps, wanted_of


def interpolate(
    story: nn.Module,
    guide: nn.Module,
    one: Any,
    other: Any,
    *,
    given: Sequence[str] = (),
    num_steps: int = 9,
    num_particles: int = 100,
    seed: int = 0,
) -> TensorDict:
    r"""Walk from each row of `one` to the row of `other` beside it, and decode what stands on the way.

    The walk is straight, in equal steps, where the latent sites are real numbers :math:`u` (`biject_to` of their
    supports), so that every point of it lies in the supports:
    :math:`u_t = (1 - w_t)\, E_q[u | x] + w_t\, E_q[u | x']`, :math:`w_t = t / (T - 1)`.
    A discrete site that reaches the observed ones only through sites that are walked needs no value and is left out.

    Arguments:
        story: The story.
        guide: Its guide.
        one: Rows where the walks begin, B of them, anything that `ppvae.data.as_rows` takes.
        other: Rows where they end, as many, with the same covariates.
        given: Observed sites to hold at their data, such as labels that other sites depend on; those must be the same
            in both rows of a pair.
        num_steps: Stops of a walk, T, both ends among them.
        num_particles: Draws of each row, of which the ends are the means.
        seed: Seed of the draws.

    Returns:
        Continuous latent site -> its values `(T, B, *row)`, and observed site that is not given -> its means there
        `(T, B, *row)`, in the data's own unit; a global site stays at its posterior mean, in its own shape.

    Raises:
        ValueError: If data or guide do not fit the story; the rows differ in number, in covariates or in what is held;
            the guide has parameters of its own rows; a discrete latent site that observed ones depend on cannot be
            walked; there are fewer than two steps; or an observed site's distribution has no mean.
    """
    if num_steps < 2:
        raise ValueError(
            f"expected at least two steps, from one row to the other, got num_steps={num_steps}"
        )
    if is_unamortized(guide):
        raise ValueError(
            "expected a guide that serves any rows, got one with parameters of its own rows; give the guide that it was "
            "made from"
        )
    (start, sites), (end, _) = (paired(story, guide, data, num_particles) for data in (one, other))
    wanted = wanted_of(sites, given)
    walk = Walk.of(sites)
    causes = _causes(story, start, sites, wanted)
    _check_pairs(start, end, [n for n in start if n not in sites or n in causes & set(given)])
    _refuse_discrete(sites, causes)
    (first, shared), (last, _) = (
        walk.centres(story, guide, batch, sites, num_particles, seed) for batch in (start, end)
    )
    weight = torch.linspace(0, 1, num_steps).to(first).reshape(-1, 1, 1)
    u = torch.lerp(first, last, weight)  # (T, B, d)
    step = rows_per_chunk(start)
    pairs = zip(row_slices(start, step), u.split(step, 1), strict=True)
    with torch.no_grad(), seeded_eval(seed, story):
        parts = [
            _decoded(story, r, stops, walk, shared, sites, given, wanted) for r, stops in pairs
        ]
    walked = {name: torch.cat([p[name] for p in parts], 1) for name in parts[0]}
    latents = walk.values(u[:1], shared)
    return walked | {name: latents[name][0] for name in walk.shared.sites}


def _decoded(
    story: nn.Module,
    rows: TensorDict,
    u: Tensor,
    walk: Walk,
    shared: Tensor | None,
    sites: Sites,
    given: Sequence[str],
    wanted: Sequence[str],
) -> TensorDict:
    """What stands at points `u` `(T, B, d)` of the rows' walks, `(T, B, *row)`; the stops are the story's particles."""
    pieces = []
    for stops in u.split(particle_steps(rows, len(u))[0]):
        latents = walk.values(stops, shared)
        found = leaves(story, rows, latents, sites, given, wanted, mean_or_hold)
        pieces.append({name: latents[name] for name in walk.local.sites} | found)
    return {name: torch.cat([p[name] for p in pieces]) for name in pieces[0]}


def _causes(story: nn.Module, batch: TensorDict, sites: Sites, wanted: Collection[str]) -> set[str]:
    """Sites that what is decoded depends on directly."""
    if hasattr(story, "run_conditioned"):
        return set(sites)  # an adopted model does not tell
    direct = site_dependencies(story, split_batch(story, batch)[1], 2)
    return set[str]().union(*(direct[name] for name in wanted))


def _check_pairs(start: TensorDict, end: TensorDict, same: Collection[str]) -> None:
    """Refuse rows that do not pair, and pairs that differ in what is not walked."""
    counts = num_rows_of(start), num_rows_of(end)
    if counts[0] != counts[1] or set(start) != set(end):
        raise ValueError(
            f"expected as many rows to end at as to begin at, with the same names, got {counts[0]} rows of {sorted(start)} "
            f"and {counts[1]} of {sorted(end)}"
        )
    for name in same:
        differ = (start[name] != end[name]).reshape(counts[0], -1).any(-1).nonzero()
        if len(differ):
            raise ValueError(
                f"'{name}': expected one value in both rows of a pair, as it is not walked, got missing or different ones "
                f"in pair {int(differ[0])}; pair rows that share it"
            )


def _refuse_discrete(sites: Sites, causes: Collection[str]) -> None:
    for name, site in sites.latent.items():
        if site.is_discrete and name in causes:
            raise ValueError(
                f"site '{name}': expected continuous latent sites to walk through, got a discrete one that observed sites "
                f"depend on; put it into the data and hold it with given=['{name}'], or choose values with ppvae.traverse"
            )
