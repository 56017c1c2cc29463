r"""`Stream`: rows that are read as they are needed, never all in memory. What training takes in the place of `Rows`."""

__all__ = ["Stream"]

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .checks import check_batch_size, check_floating
from .rows import Rows

# What is looked at where rows in memory would all be: so many rows, of so many numbers in all.
ROWS_TO_LOOK_AT = 2000
NUMBERS_TO_LOOK_AT = 2**23


class Stream(ABC):
    r"""Rows that are read as they are needed.

    A leaf says how many there are and how they come; it is a frozen dataclass with the fields below.

    Attributes:
        name: what to call the data in tables and error messages.
        device: where batches are brought to.
        dtype: the floating type that batches are converted to; None keeps the data's own.
    """

    name: str
    device: torch.device
    dtype: torch.dtype | None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pieces(self, size: int, generator: torch.Generator | None, shuffle: bool) -> Iterator[Rows]:
        r"""Goes once over the rows, `size` at a time, as they are stored: on the CPU, in their own types."""

    def __repr__(self) -> str:
        described = repr(self.first.head(1)).partition("; ")[2]
        return f"{type(self).__name__}({self.name}: {len(self)} rows, read as needed; {described}"

    @property
    def names(self) -> tuple[str, ...]:
        r"""The names of the tensors of a batch, in order."""
        return self.first.names

    @cached_property
    def first(self) -> Rows:
        r"""The first rows, at most 2,000 of them and 8 million numbers: what is looked at where all rows cannot be."""
        width = sum(t.numel() for t in self.head(1).tensors.values())
        room = max(1, NUMBERS_TO_LOOK_AT // max(1, width))
        return self.head(min(ROWS_TO_LOOK_AT, len(self), room))

    def batches(
        self, batch_size: int, *, generator: torch.Generator | None = None, shuffle: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        r"""Goes once over the rows in batches, as `Rows.batches` does.

        Arguments:
            batch_size: rows per batch, at least 1; the last batch may have fewer.
            generator: source of the order and of redrawn bits; a CPU generator.
            shuffle: whether the rows come in random order.

        Returns:
            An iterator over batches, name → tensor `(B, *event)`.

        Raises:
            ValueError: a batch size below 1; while it goes on, data that are no finite numbers, or that were changed since.
        """
        check_batch_size(batch_size)
        for piece in self.pieces(batch_size, generator, shuffle):
            yield piece.to(self.device, self.dtype).batch(None, generator)

    def head(self, n: int) -> Rows:
        r"""The first `n` rows, in memory, 1 ≤ n ≤ N."""
        if not 1 <= n <= len(self):
            raise ValueError(f"expected 1 to {len(self)} rows of '{self.name}', got n={n}")
        generator = torch.Generator().manual_seed(0)
        return next(iter(self.pieces(n, generator, False))).to(self.device, self.dtype)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Stream":
        r"""The same rows, brought to another device or floating type when they are read."""
        check_floating(dtype)
        where = self.device if device is None else torch.device(device)
        leaf: Any = self
        moved: Stream = replace(leaf, device=where, dtype=self.dtype if dtype is None else dtype)
        return moved
