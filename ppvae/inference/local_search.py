r"""The search for q*: for each row the best member of the guide's own family, without
amortization.
"""

__all__ = ["LocalFit", "fit_local", "optimize_local", "unamortized"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data.chunks import is_unamortized
from ppvae.guides.site_local import SiteLocal
from ppvae.guides.unamortized import LocalGuide
from ppvae.inference.elbo_ascent import maximize_elbo
from ppvae.inference.multi_start import keep_best, multi_start
from ppvae.problem import Problem
from ppvae.story import Batch

CHECK_PARTICLES = 100
# Starts are compared on so many times as many particles: their noise differs, and modes can be
# close.
COMPARE_REPEATS = 20


@dataclass(frozen=True)
class LocalFit:
    """How the search for q* went.

    Arguments:
        num_steps: Optimiser steps taken, the same for all rows.
        gain: L[q*] − L[start] of each row, `(B,)`, in nats, from particles that the search did not
            use; they decide which rows go back to the start, whose gain is 0.
        converged: Whether every step size stopped gaining before its share of the steps was taken.
    """

    num_steps: int
    gain: Tensor
    converged: bool


def unamortized(guide: nn.Module, batch: Batch, story: nn.Module) -> LocalGuide | SiteLocal:
    """The unamortized version of any guide, started at its answer for these rows.

    Arguments:
        guide: One of the library's guides, or any Pyro guide whose sites are independent given the
            row.
        batch: The rows, name -> `(B, *event)`.
        story: The story that the guide belongs to.

    Raises:
        ValueError: If the guide is neither.
    """
    if isinstance(guide, LocalGuide | SiteLocal):
        return guide
    return _local_guide(Problem.of(story, guide, batch))


def _local_guide(problem: Problem) -> LocalGuide | SiteLocal:
    guide: Any = problem.guide
    if hasattr(guide, "local"):
        return guide.local(problem.batch)
    return SiteLocal(guide, problem.batch, problem.sites)


def optimize_local(
    story: nn.Module,
    local: LocalGuide | SiteLocal,
    *,
    num_particles: int | None = None,
    num_starts: int | None = None,
    max_steps: int = 2000,
    tolerance: float = 0.003,
    seed: int | None = 0,
) -> LocalFit:
    """Find q*: maximise every row's own ELBO over the row's own parameters; the story stays as it
    is.

    Adam on all rows at once: its steps act on each number apart, so that rows do not influence each
    other. When a window of steps gains less than `tolerance`, the step size shrinks, and after the
    last shrink the parameters' average over the last window is taken; for flows, whose steps are
    noisy, a window that noise hides is doubled first. A row of few latent numbers is optimised from
    several starts, its own and others among the draws of all rows; another start is taken only
    where fresh particles show that it is better. A row that they show to be below its start goes
    back to it.

    Arguments:
        story: The story.
        local: A guide from `guide.local(batch)` or `unamortized`; changed in place.
        num_particles: Particles of each row and step; None takes 8, and 32 where the gradient is
            noisier (flows).
        num_starts: Starts of each row; None takes 4 where it has at most 8 latent numbers, among
            which so few can find other modes of a posterior, else 1. Somebody else's guide has one.
        max_steps: Bound on the steps; 0.7 of them go to the first step size at most.
        tolerance: Gain per row and window, in nats, below which the step size shrinks.
        seed: Seed of the draws.

    Returns:
        Steps, gains and whether the search converged.

    Raises:
        ValueError: If the story has global latent sites: its rows are not independent; or there is
            no step, or no start.
    """
    if max_steps < 1:
        raise ValueError(f"expected max_steps of at least 1 in a search for q*, got {max_steps}")
    if num_starts is not None and num_starts < 1:
        raise ValueError(f"expected num_starts of at least 1 in a search for q*, got {num_starts}")
    problem = Problem.of(story, local, local.batch, independent_for="a search for q*")
    return _search(problem, num_particles, num_starts, max_steps, tolerance, seed)


def fit_local(
    problem: Problem, max_steps: int, seed: int | None
) -> tuple[Problem, LocalFit | None]:
    """The rows with q* as their guide, and how the search went; unchecked.

    A guide with parameters for each row stays as it is, and so does any where no step may be taken.
    """
    guide: Any = problem.guide
    if max_steps == 0 or guide is None or is_unamortized(guide):
        return problem, None
    problem = problem.with_guide(_local_guide(problem))
    return problem, _search(problem, max_steps=max_steps, seed=seed)


def _search(
    problem: Problem,
    num_particles: int | None = None,
    num_starts: int | None = None,
    max_steps: int = 2000,
    tolerance: float = 0.003,
    seed: int | None = 0,
) -> LocalFit:
    """As `optimize_local`; the problem's guide is changed in place."""
    local: Any = problem.guide
    start = {k: p.detach().clone() for k, p in local.named_parameters()}
    check_seed = 1 if seed is None else seed + 1
    if not start:
        return LocalFit(0, torch.zeros(problem.num_rows), True)
    before = _fresh_log_weights(problem, check_seed)
    with problem.eval_mode(seed):
        candidates = multi_start(problem, num_starts)
        num_steps, converged = maximize_elbo(candidates, num_particles, max_steps, tolerance)
    if candidates is not problem:
        keep_best(
            local, candidates.guide, _fresh_log_weights(candidates, check_seed, COMPARE_REPEATS)
        )
    difference = _fresh_log_weights(problem, check_seed) - before
    gain, noise = difference.mean(0), difference.std(0) / CHECK_PARTICLES**0.5
    worse = ~(gain >= -2 * noise)  # also where it is NaN
    with torch.no_grad():
        for name, parameter in local.named_parameters():
            if parameter.shape[:1] == worse.shape:
                mask = worse.reshape(-1, *(1,) * (parameter.dim() - 1))
                parameter.copy_(torch.where(mask, start[name], parameter))
    return LocalFit(num_steps, torch.where(worse, torch.zeros_like(gain), gain), converged)


def _fresh_log_weights(problem: Problem, seed: int, num_repeats: int = 1) -> Tensor:
    """log w of particles that the search does not use, `(S, B)`, in nats; the same noise for the
    same seed.
    """
    with problem.eval_mode(seed), torch.no_grad():
        return torch.cat([problem.log_weights(CHECK_PARTICLES) for _ in range(num_repeats)])
