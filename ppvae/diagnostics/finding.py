r"""What a diagnostic says in one line: a number, its error, its threshold, and what to do."""

__all__ = [
    "BAD_SHARE",
    "GOOD_SHARE",
    "Finding",
    "Verdict",
    "khat_verdict",
    "number_names",
    "share_above",
    "with_error",
]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from torch import Tensor

from ppvae.estimate import Estimate

Verdict = Literal["pass", "warn", "fail", "none"]

# Shares of rows above the k-hat threshold: up to the first is good, above the second is bad.
GOOD_SHARE, BAD_SHARE = 0.05, 0.2


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis.

    Arguments:
        name: What was measured, in words.
        value: The number.
        std_error: Its standard error, in the number's unit; NaN where none is known.
        threshold: The bar that the verdict is held to, in words with its number.
        verdict: `pass`, `warn` (imperfect, or too close to tell), `fail`, or `none`: reported
            without a bar.
        advice: What is wrong, in which direction, and what to try next; empty where nothing is.
    """

    name: str
    value: float
    std_error: float
    threshold: str
    verdict: Verdict
    advice: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        value: Estimate | float,
        threshold: str = "none",
        verdict: Verdict = "none",
        advice: str = "",
    ) -> "Finding":
        """The line of a number or an estimate; advice is kept only where it does not pass."""
        error = float(value.std_error) if isinstance(value, Estimate) else math.nan
        number = float(value.value if isinstance(value, Estimate) else value)
        advice = advice if verdict in ("warn", "fail") else ""
        return cls(name, number, error, threshold, verdict, advice)

    def __str__(self) -> str:
        value = with_error(self.value, self.std_error)
        line = f"{self.name}: {value} ({self.threshold}): {self.verdict}"
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
    """Names of the latent numbers of a row: `site[index]`, or the site's own for one number."""
    names = []
    for name, shape in shapes.items():
        indices = product(*(range(size) for size in shape))
        names += [f"{name}[{','.join(map(str, i))}]" if i else name for i in indices]
    return names


def share_above(khat: Tensor, threshold: float) -> Estimate:
    """Share of the rows whose k-hat `(B,)` exceeds the threshold, `()`, with its binomial error."""
    share = (khat > threshold).double().mean()
    return Estimate(share, (share * (1 - share) / len(khat)).sqrt())


def khat_verdict(khat: Tensor, threshold: float) -> Verdict:
    """`fail` if weights of over 20 % of the rows are not to be trusted, `warn` above 5 %."""
    share = float(share_above(khat, threshold).value)
    return "fail" if share > BAD_SHARE else "warn" if share > GOOD_SHARE else "pass"
