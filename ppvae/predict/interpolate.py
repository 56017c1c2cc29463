r"""From one row to another, through the latent sites."""

__all__ = ["interpolate"]

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data.chunks import is_unamortized, particle_step, rows_per_chunk
from ppvae.problem import Problem
from ppvae.problem.generation import decode
from ppvae.story import Sites, TensorDict
from ppvae.story.validation import site_dependencies

from .latent_space import LatentSpace


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
    r"""Interpolate from each row of `one` to the row of `other` beside it, and decode each step.

    The path is straight, in equal steps, where the latent sites are real numbers :math:`u`
    (`biject_to` of their supports), so that every point of it lies in the supports:
    :math:`u_t = (1 - w_t)\, E_q[u | x] + w_t\, E_q[u | x']`, :math:`w_t = t / (T - 1)`.
    A discrete site on which no observed site depends directly needs no value and is left out.

    Arguments:
        story: The story.
        guide: Its guide.
        one: Rows at which the paths begin, B of them, anything that `ppvae.data.as_rows` takes.
        other: Rows at which they end, as many, with the same covariates.
        given: Observed sites to hold at their data, such as labels that other sites depend on;
            those must be the same in both rows of a pair.
        num_steps: Points of a path, T, both ends among them.
        num_particles: Draws of each row, of which the ends are the means.
        seed: Seed of the draws.

    Returns:
        Continuous latent site -> its values `(T, B, *row)`, and observed site that is not given ->
        its means there `(T, B, *row)`, in the data's own unit; a global site stays at its posterior
        mean, in its own shape.

    Raises:
        ValueError: If data or guide do not fit the story; the rows differ in number, in covariates
            or in what is held; the guide has parameters of its own rows; observed sites depend on a
            discrete latent site; there are fewer than two steps; or an observed site's distribution
            has no mean.
    """
    if num_steps < 2:
        raise ValueError(
            f"expected at least two steps, from one row to the other, got num_steps={num_steps}"
        )
    if is_unamortized(guide):
        raise ValueError(
            "expected a guide that serves any rows, got one with parameters of its own rows; give "
            "the guide that it was made from"
        )
    start, end = Problem.of(story, guide, one), Problem.of(story, guide, other)
    space = LatentSpace.of(start.sites)
    parents = _parents_of_decoded(start, given)
    fixed = [n for n in start.batch if n not in start.sites or n in parents & set(given)]
    _check_pairs(start, end, fixed)
    _refuse_discrete(start.sites, parents)
    first, u_global = space.posterior_means(start, num_particles, seed)
    last, _ = space.posterior_means(end, num_particles, seed)
    weight = torch.linspace(0, 1, num_steps).to(first).reshape(-1, 1, 1)
    u = torch.lerp(first, last, weight)  # (T, B, d)
    step = rows_per_chunk(start.batch)
    with torch.no_grad(), start.eval_mode(seed):
        parts = [
            _decode(piece, points, space, u_global, given)
            for piece, points in zip(start.pieces(step), u.split(step, 1), strict=True)
        ]
    path = {name: torch.cat([p[name] for p in parts], 1) for name in parts[0]}
    latents = space.unflatten(u[:1], u_global)
    return path | {name: latents[name][0] for name in space.global_.sites}


def _decode(
    problem: Problem,
    u: Tensor,
    space: LatentSpace,
    u_global: Tensor | None,
    given: Sequence[str],
) -> TensorDict:
    """Latent sites and decoded means at points `u` `(T, B, d)`, each `(T, B, *row)`."""
    parts = []
    for points in u.split(particle_step(problem.batch, problem.num_rows)):
        latents = space.unflatten(points, u_global)
        means = decode(problem, latents, given, mean=True)
        parts.append({name: latents[name] for name in space.local.sites} | means)
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def _parents_of_decoded(problem: Problem, given: Collection[str]) -> set[str]:
    """Sites that decoded ones depend on directly; all of an adopted model."""
    if not problem.program.generates_rows:
        return set(problem.sites)
    direct = site_dependencies(problem.story, problem.covariates, 2)
    return set[str]().union(*(direct[n] for n in problem.sites.observed if n not in given))


def _check_pairs(start: Problem, end: Problem, fixed: Collection[str]) -> None:
    """Refuse rows that do not pair, and pairs that differ in what stays fixed."""
    if start.num_rows != end.num_rows or set(start.batch) != set(end.batch):
        raise ValueError(
            "expected as many rows to end at as to begin at, with the same names, got "
            f"{start.num_rows} rows of {sorted(start.batch)} and {end.num_rows} of "
            f"{sorted(end.batch)}"
        )
    for name in fixed:
        differ = start.batch[name] != end.batch[name]
        rows = differ.reshape(start.num_rows, -1).any(-1).nonzero()
        if len(rows):
            raise ValueError(
                f"'{name}': expected one value in both rows of a pair, as it is held fixed, got "
                f"missing or different ones in pair {int(rows[0])}; pair rows that share it"
            )


def _refuse_discrete(sites: Sites, parents: Collection[str]) -> None:
    for name, site in sites.latent.items():
        if site.is_discrete and name in parents:
            raise ValueError(
                f"site '{name}': expected continuous latent sites to interpolate, got a discrete "
                "one that observed sites depend on; put it into the data and hold it with "
                f"given=['{name}'], or choose values with ppvae.traverse"
            )
