r"""log p(x) without Monte Carlo error: the story's own closed form, or the sum over all finite
discrete sites.
"""

__all__ = ["check_exact", "exact_evidence", "knows_exact"]

from typing import Any

import torch

from ppvae.estimate import Estimate
from ppvae.inference.check_finite import check_finite
from ppvae.problem import Problem
from ppvae.story import Configurations, has_missing


def exact_evidence(problem: Problem) -> Estimate:
    """log p(x) of each row, with no error.

    Arguments:
        problem: A story with a `log_evidence(batch)` of its own, or one whose latent sites are all
            finite and discrete, and rows.

    Returns:
        `(B,)`, in nats.

    Raises:
        ValueError: If it is neither, values are missing that the closed form needs, or there are
            too many joint values.
    """
    story: Any = problem.story
    check_exact(problem)
    problem = problem.with_guide(None)
    with torch.no_grad(), problem.eval_mode(0):
        if _is_finite(problem):
            value = torch.cat([piece.log_joint({})[0] for piece in problem.pieces()])
        else:
            value = story.log_evidence(problem.batch)
    check_finite(value, problem)
    return Estimate.exact(value)


def check_exact(problem: Problem) -> None:
    """Refuse a story, or rows, without an exact answer.

    Raises:
        ValueError: As `exact_evidence`.
    """
    name, missing = type(problem.story).__name__, _missing(problem)
    if _is_finite(problem):
        Configurations(problem.sites.local_latent)
    elif not hasattr(problem.story, "log_evidence"):
        raise ValueError(
            f"expected {name} to define log_evidence(batch), its closed form, or to have only "
            f"finite discrete latent sites; it has {sorted(problem.sites.latent)}, so use method "
            "'iwae' or 'ais' with a guide"
        )
    elif missing:
        raise ValueError(
            f"expected complete rows for the closed form of {name}, got missing values (NaN) in "
            f"{missing}; use 'iwae' or 'ais', which leave them out"
        )


def knows_exact(problem: Problem) -> bool:
    """Whether `exact_evidence` has an answer for these rows."""
    try:
        check_exact(problem)
    except ValueError:
        return False
    return True


def _missing(problem: Problem) -> list[str]:
    return sorted(name for name, value in problem.batch.items() if has_missing(value))


def _is_finite(problem: Problem) -> bool:
    """Whether all latent sites are discrete ones inside the plate."""
    latent = problem.sites.latent
    return bool(latent) and all(s.is_local and s.is_discrete for s in latent.values())
