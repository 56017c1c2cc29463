r"""`Stream`: rows that are read as they are needed, never all in memory."""

__all__ = ["Stream"]

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .rows import Rows, check_batch_size, check_floating

CPU = torch.device("cpu")
# A preview holds at most so many rows, and so many numbers in all.
PREVIEW_ROWS = 2000
PREVIEW_NUMBERS = 2**23


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Stream(ABC):
    r"""Rows that are read as they are needed; training takes them as it takes `Rows`.

    A subclass says how many there are and how they are read.

    Arguments:
        name: what to call the data in tables and error messages.
        device: where batches are brought to.
        dtype: the floating type that batches are converted to; None keeps the data's own.
    """

    name: str = "data"
    device: torch.device = CPU
    dtype: torch.dtype | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, size: int, generator: torch.Generator | None, shuffle: bool) -> Iterator[Rows]:
        r"""Goes once over the rows, `size` at a time, on the CPU and in their own types."""

    def __repr__(self) -> str:
        columns = repr(self.preview.head(1)).partition("; ")[2]
        return f"{type(self).__name__}({self.name}: {len(self)} rows, read as needed; {columns}"

    @property
    def names(self) -> tuple[str, ...]:
        r"""The names of the tensors of a batch, in order."""
        return self.preview.names

    @cached_property
    def preview(self) -> Rows:
        r"""The first rows in memory, at most 2,000 of them and 8 million numbers."""
        width = sum(t.numel() for t in self.head(1).tensors.values())
        return self.head(min(PREVIEW_ROWS, len(self), max(1, PREVIEW_NUMBERS // max(1, width))))

    def batches(
        self, batch_size: int, *, generator: torch.Generator | None = None, shuffle: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        r"""Goes once over the rows in batches; arguments, returns and errors as in `Rows.batches`.

        The generator is a CPU generator. Values that are infinite or no numbers, and data that
        changed meanwhile, are a ValueError when their batch comes.
        """
        check_batch_size(batch_size)
        for rows in self.read(batch_size, generator, shuffle):
            yield rows.to(self.device, self.dtype).batch(None, generator)

    def head(self, n: int) -> Rows:
        r"""The first `n` rows, in memory, 1 ≤ n ≤ N."""
        if not 1 <= n <= len(self):
            raise ValueError(f"expected 1 to {len(self)} rows of '{self.name}', got n={n}")
        generator = torch.Generator().manual_seed(0)
        return next(iter(self.read(n, generator, False))).to(self.device, self.dtype)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Stream":
        r"""The same rows, brought to another device or floating type when they are read."""
        check_floating(dtype)
        where = self.device if device is None else torch.device(device)
        return replace(self, device=where, dtype=self.dtype if dtype is None else dtype)
