r"""Why an estimate is not a number: which site, in which rows."""

__all__ = ["check_finite"]

from collections.abc import Iterable

import torch
from torch import Tensor

from ppvae.problem import Problem

PARTICLES = 20
ROWS_NAMED = 5


def check_finite(value: Tensor, problem: Problem) -> None:
    """Refuse estimates that are infinite or NaN, and say where that comes from.

    Arguments:
        value: Estimates, `(B,)`, in nats.
        problem: The rows, and what was drawn from, if anything.

    Raises:
        ValueError: Naming the rows, and the site whose density is NaN, infinite or zero there.
    """
    bad = ~torch.isfinite(value)
    if not bool(bad.any()):
        return
    rows = (bad.nonzero().flatten() + problem.first_row).tolist()
    rest = f" and {len(rows) - ROWS_NAMED} more" if len(rows) > ROWS_NAMED else ""
    kind = "NaN" if bool(torch.isnan(value[bad]).any()) else "an infinite one"
    cause = "the story's own density is not finite there; look for NaN in its parameters"
    if problem.guide is not None:
        again = "nothing that fresh draws of the guide show again; take float64, or fit the guide"
        cause = "; ".join(_causes(problem, bad)) or again
    raise ValueError(
        f"expected a finite log p(x) in every row, got {kind} in rows {rows[:ROWS_NAMED]}{rest}; "
        f"cause: {cause}"
    )


def _causes(problem: Problem, bad: Tensor) -> list[str]:
    """What fresh draws on the bad rows, `(B,)`, show, in words."""
    with torch.no_grad(), problem.eval_mode(0):
        drawn = problem.draw(PARTICLES)
        by_site = problem.log_joint_by_site(drawn.values)
    by_site = {n: v for n, v in by_site.items() if problem.sites[n].is_local}
    values = {n: v for n, v in drawn.values.items() if problem.sites[n].is_local}
    drawn_nan = [n for n, v in values.items() if _any(torch.isnan(v), bad)]
    if drawn_nan:
        return [
            f"the guide draws NaN at {_sites(drawn_nan)}; its encoder or parameters are not finite"
        ]
    causes = []
    nan = [n for n, v in by_site.items() if _any(torch.isnan(v), bad)]
    if nan:
        causes.append(
            f"the story's log density is NaN at {_sites(nan)}; look for NaN in its decoder or its "
            "parameters"
        )
    high = [n for n, v in by_site.items() if _any(v == torch.inf, bad)]
    if high:
        causes.append(
            f"the story's density is infinite at {_sites(high)}; bound its scale from below"
        )
    none = [n for n, v in by_site.items() if bool((v == -torch.inf).all(0)[bad].any())]
    some = [n for n, v in by_site.items() if _any(v == -torch.inf, bad) and n not in none]
    if none:
        causes.append(
            f"all weights are zero, because {_sites(none)} has no density at any draw of the "
            "guide, which has lost the support of the posterior; fit it again, or widen it"
        )
    elif some and not causes:
        causes.append(
            f"{_sites(some)} has no density at some of the guide's draws, which reach outside its "
            "support"
        )
    own = {n: v for n, v in drawn.by_site.items() if drawn.is_local[n]}
    low = [n for n, v in own.items() if _any(~torch.isfinite(v), bad)]
    if low:
        causes.append(f"the guide's own log density is not finite at {_sites(low)}")
    return causes


def _any(flags: Tensor, bad: Tensor) -> bool:
    """Whether a flag `(S, B, *)` is up in a bad row."""
    return bool(flags.transpose(0, 1)[bad].any())


def _sites(names: Iterable[str]) -> str:
    return "site " + ", ".join(f"'{n}'" for n in names)
