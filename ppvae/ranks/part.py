r"""A part of a batch: which of its rows."""

__all__ = ["Part", "parts_of"]

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """The rows from `first` to before `stop` of `total`; none where there are fewer rows than parts."""

    first: int
    stop: int
    total: int

    @property
    def share(self) -> float:
        """Its share of all rows, 0 to 1."""
        return (self.stop - self.first) / self.total

    @property
    def rows(self) -> slice:
        """Where its rows stand; the first row where it has none, as no program runs on no rows."""
        return slice(self.first, self.stop) if self.stop > self.first else slice(0, 1)

    def of(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its rows of a batch, name -> `(b, *event)`."""
        return {name: value[self.rows] for name, value in batch.items()}


def parts_of(total: int, count: int) -> list[Part]:
    """`total` rows cut into `count` parts that differ by one row at most."""
    edges = [total * number // count for number in range(count + 1)]
    return [Part(first, stop, total) for first, stop in pairwise(edges)]
