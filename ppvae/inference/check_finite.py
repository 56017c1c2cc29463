r"""Why an estimate is not a number: which site, in which rows."""

__all__ = [
    "check_finite",
    "checked_pair",
    "draws_discrete",
    "is_annealable",
    "refuse_unannealable",
]

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ppvae.problem.weights import check_pair, draw
from ppvae.story import Configurations, LogJoint, Sites, TensorDict, seeded_eval

PARTICLES = 20
ROWS_NAMED = 5


def checked_pair(story: nn.Module, guide: nn.Module, batch: TensorDict) -> Sites:
    """As `check_pair`, without Pyro's own argument checks: NaN is for `check_finite` to find, which names site and rows."""
    with seeded_eval(0, story):
        return check_pair(story, guide, batch)


def check_finite(
    value: Tensor,
    story: nn.Module,
    guide: nn.Module | None,
    batch: TensorDict,
    first_row: int = 0,
) -> None:
    """Refuse estimates that are infinite or NaN, and say where that comes from.

    Arguments:
        value: Estimates, `(B,)`, in nats.
        story: The story.
        guide: What was drawn from, if anything.
        batch: The rows, name -> `(B, *event)`.
        first_row: Number of the first row among all that were asked for.

    Raises:
        ValueError: Naming the rows, and the site whose density is NaN, infinite or zero there.
    """
    bad = ~torch.isfinite(value)
    if not bool(bad.any()):
        return
    which = _named((bad.nonzero().flatten() + first_row).tolist())
    cause = "the story's own density is not finite there; look for NaN in its parameters"
    if guide is not None:
        again = "nothing that fresh draws of the guide show again; take float64, or fit the guide"
        cause = "; ".join(_causes(story, guide, batch, bad)) or again
    raise ValueError(
        f"expected a finite log p(x) in every row, got {_kind(value[bad])} in {which}; cause: {cause}"
    )


def _kind(values: Tensor) -> str:
    return "NaN" if bool(torch.isnan(values).any()) else "an infinite one"


def _named(rows: list[int]) -> str:
    rest = f" and {len(rows) - ROWS_NAMED} more" if len(rows) > ROWS_NAMED else ""
    return f"rows {rows[:ROWS_NAMED]}{rest}"


def _causes(story: nn.Module, guide: nn.Module, batch: TensorDict, bad: Tensor) -> list[str]:
    """What fresh draws on the bad rows show, in words."""
    sites = checked_pair(story, guide, batch)
    with torch.no_grad(), seeded_eval(0, story, guide):
        drawn = draw(guide, batch, PARTICLES, sites)
        by_site = LogJoint(story, batch, sites).by_site(drawn.values)
    drawn_nan = [n for n, v in drawn.values.items() if _any(torch.isnan(v), bad)]
    if drawn_nan:
        return [
            f"the guide draws NaN at {_sites(drawn_nan)}; its encoder or parameters are not finite"
        ]
    faults = []
    nan = [n for n, v in by_site.items() if _any(torch.isnan(v), bad)]
    if nan:
        faults.append(
            f"the story's log density is NaN at {_sites(nan)}; look for NaN in its decoder or its parameters"
        )
    high = [n for n, v in by_site.items() if _any(v == torch.inf, bad)]
    if high:
        faults.append(
            f"the story's density is infinite at {_sites(high)}; bound its scale from below"
        )
    none = [n for n, v in by_site.items() if bool((v == -torch.inf).all(0)[bad].any())]
    some = [n for n, v in by_site.items() if _any(v == -torch.inf, bad) and n not in none]
    if none:
        faults.append(
            f"all weights are zero, because {_sites(none)} has no density at any draw of the guide, which has lost the "
            "support of the posterior; fit it again, or widen it"
        )
    elif some and not faults:
        faults.append(
            f"{_sites(some)} has no density at some of the guide's draws, which reach outside its support"
        )
    low = [n for n, v in drawn.by_site.items() if _any(~torch.isfinite(v), bad)]
    if low:
        faults.append(f"the guide's own log density is not finite at {_sites(low)}")
    return faults


def _any(flags: Tensor, bad: Tensor) -> bool:
    """Whether a flag `(S, B, *)` is up in a bad row."""
    return bool(flags.transpose(0, 1)[bad].any())


def _sites(names: Iterable[str]) -> str:
    return "site " + ", ".join(f"'{n}'" for n in names)


def refuse_unannealable(sites: Sites, what: str) -> None:
    """Refuse stories in which nothing continuous is left to move, or whose discrete sites cannot be summed out.

    Arguments:
        sites: The story's sites.
        what: The method, for the message.

    Raises:
        ValueError: Naming the sites.
    """
    discrete = sites.local_discrete
    if not sites.local_continuous:
        raise ValueError(
            f"expected a continuous latent site for method '{what}', got only the discrete {sorted(discrete)}; use method "
            "'exact' if they have few joint values, else 'iwae' with a guide that draws them"
        )
    if not discrete:
        return
    try:
        Configurations(discrete)
    except ValueError as error:
        raise ValueError(
            f"method '{what}' sums discrete sites out: {error}; then use method 'iwae'"
        ) from error


def draws_discrete(guide: nn.Module | None) -> bool:
    """Whether a guide of the library draws discrete sites, which no gradient moves."""
    return getattr(guide, "discrete", None) is not None


def is_annealable(sites: Sites) -> bool:
    """Whether annealing has something to move, and can sum out the rest."""
    try:
        refuse_unannealable(sites, "ais")
    except ValueError:
        return False
    return True
