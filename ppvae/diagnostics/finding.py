r"""What a diagnostic says in one line: a number, its error, the bar it is held to, and what to do."""

__all__ = ["Finding", "Verdict", "number_names", "with_error"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

Verdict = Literal["pass", "warn", "fail", "none"]


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis.

    Arguments:
        name: What was measured, in words.
        value: The number.
        std_error: Its standard error, in the number's unit; NaN where none is known.
        threshold: The bar that the verdict is held to, in words with its number.
        verdict: `pass`, `warn` (imperfect, or too close to tell), `fail`, or `none`: reported without a bar.
        advice: What is wrong, in which direction, and what to try next; empty where nothing is.
    """

    name: str
    value: float
    std_error: float
    threshold: str
    verdict: Verdict
    advice: str = ""

    def __str__(self) -> str:
        line = f"{self.name}: {with_error(self.value, self.std_error)} ({self.threshold}): {self.verdict}"
        return f"{line}; {self.advice}" if self.advice else line


def with_error(value: float, std_error: float) -> str:
    """A number with as many digits as its standard error warrants; without one, four digits."""
    if math.isnan(value):
        return ""
    if not 0 < std_error < math.inf:
        return f"{value:.4g}"
    digits = min(6, max(0, 1 - math.floor(math.log10(std_error))))
    return f"{value:.{digits}f} ± {std_error:.{digits}f}"


def number_names(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Names of the latent numbers of a row: `site[index]`, or the site's own where it is one number."""
    names = []
    for name, shape in shapes.items():
        indices = product(*(range(size) for size in shape))
        names += [f"{name}[{','.join(map(str, i))}]" if i else name for i in indices]
    return names
