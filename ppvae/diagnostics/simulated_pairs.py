r"""Rows simulated from the story, with the latent values behind them."""

__all__ = ["SimulatedPairs", "simulate_pairs"]

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ppvae.diagnostics.requirements import Pair, as_problem, check_amortized
from ppvae.problem import Problem, missing_as
from ppvae.story import TensorDict, partially_observed, reference_tensor, seeded_eval, simulate
from ppvae.story.validation import parent_sites

PURPOSE = "calibration"


@dataclass(frozen=True)
class SimulatedPairs:
    """Pairs (z, x) drawn from the story: the truth behind x is known.

    Arguments:
        problem: Story, guide, and the N simulated rows x: observed sites and covariates.
        truth: Latent site, and observed site that some rows miss, -> `(N, *row)`.
    """

    problem: Problem
    truth: TensorDict

    def pieces(self, num_draws: int) -> Iterator[tuple[slice, Problem, TensorDict]]:
        """Pieces of which `num_draws` draws fit in memory: rows, problem and truth."""
        for piece in self.problem.pieces(num_particles=num_draws):
            rows = slice(piece.first_row, piece.first_row + piece.num_rows)
            yield rows, piece, {name: value[rows] for name, value in self.truth.items()}


def simulate_pairs(
    story: Pair, guide: nn.Module | None, data: Any, num_simulations: int, seed: int
) -> SimulatedPairs:
    """Draw rows like the data from the story, with exactly the keys that the guide was built for.

    Arguments:
        story: The story, whose latent sites are all inside the plate `data`; or a problem.
        guide: An amortized guide.
        data: Rows that tell which sites are observed. Covariates and the pattern of missing entries
            are taken from rows of it drawn at random; missingness is taken not to depend on the
            values. None: the sites that no other site depends on are observed, in full, and the
            story takes no covariates.
        num_simulations: N.
        seed: Seed of the simulation.

    Raises:
        ValueError: If the story has global latent sites, the guide is local, or the keys of the
            data are no sites.
    """
    if num_simulations < 2:
        raise ValueError(
            f"expected at least two simulations, got num_simulations={num_simulations}"
        )
    if isinstance(story, Problem) or data is not None:
        example = as_problem(story, guide, data, PURPOSE)
        check_amortized(example.guide, PURPOSE)
        return _simulate_like(example, num_simulations, seed)
    check_amortized(guide, PURPOSE)
    with seeded_eval(seed, story):
        observed = _default_observed(story)
        drawn = simulate(story, num_simulations)
    rows = {name: drawn[name].to(reference_tensor(story).dtype) for name in observed}
    problem = Problem.of(story, guide, rows, independent_for=PURPOSE)
    return SimulatedPairs(problem, {name: drawn[name] for name in problem.sites.latent})


def _simulate_like(example: Problem, num_simulations: int, seed: int) -> SimulatedPairs:
    """Rows with the covariates and the missing entries of rows of the example drawn at random."""
    story = example.story
    with seeded_eval(seed, story):
        picks = torch.randint(example.num_rows, (num_simulations,))
        like = example.rows(picks.to(next(iter(example.batch.values())).device)).batch
        inputs: dict[str, Any] = example.program.inputs(like)
        drawn = simulate(story, num_simulations, **inputs)
    covariates = example.program.split(like)[1]
    observed = [name for name in like if name not in covariates]
    unknown = sorted(set(observed) - set(drawn))
    if unknown:
        raise ValueError(
            f"expected data whose keys name sites or covariates of the story, got {unknown}; its "
            f"sites are {sorted(drawn)}: give data and sites the same names"
        )
    dtype = reference_tensor(story).dtype
    rows = {name: missing_as(drawn[name].to(dtype), like[name]) for name in observed} | covariates
    hidden = [*example.sites.latent, *partially_observed(story, rows, example.sites)]
    return SimulatedPairs(example.on(rows), {name: drawn[name] for name in hidden})


def _default_observed(story: Any) -> list[str]:
    """Local sites that no other site depends on; those that an adopted model observes itself."""
    if hasattr(story, "row_shapes"):
        return list(story.row_shapes)
    example = simulate(story, 3)
    parents = parent_sites(story, {}, 3)
    return [k for k, v in example.items() if k not in parents and v.shape[:1] == (3,)]
