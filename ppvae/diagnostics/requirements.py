r"""What diagnostics need: a problem, a guide for new rows, a guide with a density."""

__all__ = ["Pair", "as_problem", "check_amortized", "check_draws_sites"]

from typing import Any

from torch import nn

from ppvae.problem import Problem
from ppvae.story import TensorDict

# A story, with its guide and data beside it; or a problem that holds all three.
Pair = nn.Module | Problem


def as_problem(
    story: Pair, guide: nn.Module | None, data: Any, independent_for: str = ""
) -> Problem:
    """The problem that was given, or that of a story, a guide and data.

    Arguments:
        story: The story; or a problem, with None for the two others.
        guide: Its guide.
        data: Rows.
        independent_for: As in `Problem.of`.
    """
    if not isinstance(story, Problem):
        return Problem.of(story, guide, data, independent_for=independent_for)
    if independent_for:
        story.check_independent_rows(independent_for)
    return story


def check_amortized(guide: nn.Module | None, purpose: str) -> None:
    """Refuse a guide with parameters for each of its own rows where new rows are encoded.

    Raises:
        ValueError: If it is one.
    """
    if getattr(guide, "is_unamortized", False):
        raise ValueError(
            f"expected an amortized guide for {purpose}, which encodes new rows, got a local one "
            "that serves only its own rows; pass the guide that it came from"
        )


def check_draws_sites(problem: Problem, drawn: TensorDict, purpose: str) -> None:
    """Refuse a guide that leaves every site out: its draws are the exact posterior's, and it has no
    density.

    Raises:
        ValueError: If nothing is drawn.
    """
    if not drawn:
        raise ValueError(
            f"expected a guide that draws latent sites for {purpose}, got one that leaves out "
            f"{sorted(problem.sites.latent)}, which are summed over exactly: there is nothing to "
            "judge"
        )
