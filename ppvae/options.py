r"""Keyword options of a class and of those that it passes them on to: what a table's `build` may be
given.
"""

__all__ = ["did_you_mean", "options_of", "refuse_unknown_options"]

import inspect
from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message, `; did you mean 'vae'?`, where a known name is near; else nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def options_of(cls: type, root: type) -> list[str]:
    """Names of the keyword arguments of a class and of its bases down to `root`, in alphabetical
    order.
    """
    found = {
        parameter.name
        for base in cls.__mro__
        if "__init__" in vars(base) and issubclass(base, root)
        for parameter in inspect.signature(base).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return sorted(found)


def refuse_unknown_options(what: str, cls: type, root: type, given: Iterable[str]) -> None:
    """Refuse options that a class does not have.

    Arguments:
        what: What the class is called in the message.
        cls: The class.
        root: The base at which its options begin.
        given: Names of the options.

    Raises:
        ValueError: Naming the unknown ones, and those that there are.
    """
    known = options_of(cls, root)
    unknown = sorted(set(given) - set(known))
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise ValueError(f"{what}: expected options among {', '.join(known)}; got {unknown}{hint}")
