r"""Several starts of a search: which mode of a posterior a search finds depends on its start."""

__all__ = ["keep_best", "multi_start"]

from typing import Any

import torch
from torch import Tensor

from ppvae.problem import Problem
from ppvae.story import num_rows_of

# In more latent numbers than this so few starts do not find other modes.
MAX_DIM, NUM_STARTS = 8, 4
# Parameters that are the location of a row's distribution on u, and those that are its width,
# through `positive`.
LOCATIONS = ("loc", "locs")
WIDTHS = ("raw_scale", "raw_scales", "raw_diagonal")
NARROWER = 1.5
DRAWS = 100
NUM_ERRORS = 2.0


def multi_start(problem: Problem, num_starts: int | None) -> Problem:
    """Every row several times: as it is, then with its guide moved to where all rows' draws are
    spread.

    Arguments:
        problem: Rows with a guide that has parameters for each.
        num_starts: How often; None takes `NUM_STARTS` where a row has at most `MAX_DIM` latent
            numbers, else 1.

    Returns:
        The rows one round after the other with a new guide; `problem` itself where there is one
        start or nothing to move.
    """
    local: Any = problem.guide
    if num_starts is None:
        num_starts = NUM_STARTS if local.flat.dim <= MAX_DIM else 1
    if num_starts == 1 or not any(key in LOCATIONS for key in local.rows):
        return problem
    candidates = local.repeated(num_starts)
    with torch.no_grad():
        u = local.posterior(local.batch).sample((DRAWS,)).flatten(0, -2)  # (S * B, d)
        for key, parameter in candidates.rows.items():
            rounds = parameter.unflatten(0, (num_starts, -1))
            if key in LOCATIONS:
                rounds[1:] = u.mean(0) + u.std(0) * torch.randn_like(rounds[1:])
            elif key in WIDTHS:
                rounds[1::2] -= NARROWER
    return problem.on(candidates.batch, problem.first_row).with_guide(candidates)


def keep_best(local: Any, candidates: Any, log_w: Tensor) -> None:
    """Give each row the parameters of its first start, or of another that is clearly better.

    Arguments:
        local: The guide, changed in place.
        candidates: The guide of what `multi_start` made of it, optimised.
        log_w: Its log weights, `(S, rounds * B)`, in nats.
    """
    num_rows = num_rows_of(local.batch)
    rounds = log_w.split(num_rows, 1)
    best, found = rounds[0], torch.arange(num_rows, device=log_w.device)
    for count, other in enumerate(rounds[1:], 1):
        better = is_better(other, best)
        best = torch.where(better, other, best)
        found = torch.where(better, count * num_rows + found % num_rows, found)
    with torch.no_grad():
        pairs = ((local.rows, candidates.rows), (local.networks, candidates.networks))
        for parameters, of_all in pairs:
            for key, parameter in parameters.items():
                parameter.copy_(of_all[key][found])


def is_better(one: Tensor, other: Tensor) -> Tensor:
    """Rows whose mean of `(S, B)` is clearly higher in the first, or finite in the first alone,
    `(B,)`.
    """
    gain = one - other
    clear = gain.mean(0) > NUM_ERRORS * gain.std(0) / len(gain) ** 0.5
    return clear | (one.mean(0).isfinite() & ~other.mean(0).isfinite())
