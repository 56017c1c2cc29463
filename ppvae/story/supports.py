r"""Supports in words: what a site's values may be."""

__all__ = ["describe_support"]

from typing import Any

from torch.distributions import constraints


def describe_support(support: constraints.Constraint) -> str:
    """A support as a reader says it: `real`, `positive`, `0 or 1`, `whole numbers from 0`.

    Arguments:
        support: Of a site, or of one of its entries.

    Returns:
        Words for each entry; torch's own name where there are none here.
    """
    base: Any = support
    while hasattr(base, "base_constraint"):
        base = base.base_constraint
    name = type(base).__name__.lstrip("_")
    low, high = (getattr(base, f"{side}_bound", None) for side in ("lower", "upper"))
    if name in ("GreaterThan", "GreaterThanEq") and low == 0:
        return "positive" if name == "GreaterThan" else "at least 0"
    form = _WORDS.get(name)
    return str(base) if form is None else form.format(low=_number(low), high=_number(high))


def _number(bound: Any) -> str:
    """A bound without needless digits; a bound of each entry as `...`."""
    try:
        return f"{float(bound):g}"
    except (TypeError, ValueError, RuntimeError):
        return "..."


# Name of a constraint's class -> words.
_WORDS = {
    "Real": "real",
    "Boolean": "0 or 1",
    "GreaterThan": "above {low}",
    "GreaterThanEq": "at least {low}",
    "LessThan": "below {high}",
    "Interval": "from {low} to {high}",
    "HalfOpenInterval": "from {low} to below {high}",
    "IntegerInterval": "whole numbers {low} to {high}",
    "IntegerGreaterThan": "whole numbers from {low}",
    "Simplex": "simplex",
    "OneHot": "one-hot",
}
