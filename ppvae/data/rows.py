r"""`Rows`: named tensors in memory that share their first dimension, and batches of them."""

__all__ = ["Rows", "permutation"]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .checks import (
    check_batch_size,
    check_floating,
    check_probabilities,
    check_tensors,
    row_numbers,
)

HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False, repr=False)
class Rows:
    r"""Rows of data in memory: one tensor per name, the first dimension counts rows.

    The tensors are not copied, and a batch taken by a slice is a view of them: treat both as
    read-only.

    Arguments:
        tensors: name of a site or covariate → float tensor `(N, *event)` on one device; NaN marks a
            missing value.
        dynamic: names whose values are probabilities, redrawn as 0/1 each time a batch is taken.
        name: what to call the data in tables and error messages.

    Raises:
        ValueError: no name, a name that is not a string, no row, unequal numbers of rows, tensors
            that are not floating, several devices, or a dynamic name that is unknown or not within
            [0, 1].
    """

    tensors: Mapping[str, Tensor]
    dynamic: frozenset[str] = frozenset()
    name: str = "data"

    def __post_init__(self) -> None:
        tensors = dict(self.tensors)
        check_tensors(tensors, self.name)
        object.__setattr__(self, "tensors", tensors)
        object.__setattr__(self, "dynamic", frozenset(self.dynamic))
        for name in self.dynamic:
            check_probabilities(tensors, name, self.name)

    def __len__(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    def __repr__(self) -> str:
        columns = ", ".join(
            f"{name} {tuple(tensor.shape[1:])} {str(tensor.dtype).removeprefix('torch.')}"
            + (" redrawn" if name in self.dynamic else "")
            for name, tensor in self.tensors.items()
        )
        return f"Rows({self.name}: {len(self)} rows; {columns})"

    @property
    def names(self) -> tuple[str, ...]:
        r"""The names of the tensors, in the order they were given."""
        return tuple(self.tensors)

    def keys(self) -> tuple[str, ...]:
        r"""The same as `names`, under the word a dict uses."""
        return self.names

    @property
    def device(self) -> torch.device:
        r"""The device that holds all the tensors."""
        return next(iter(self.tensors.values())).device

    def batch(
        self, index: Tensor | slice | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        r"""Takes rows, with the dynamic names redrawn: a story sees bits, not probabilities.

        Arguments:
            index: row numbers `(B,)` (integers ≥ 0), a mask `(N,)` of bools, a slice, or None for
                every row.
            generator: source of the redrawn bits; torch's default generator of the device when
                None.

        Returns:
            name → tensor `(B, *event)`.

        Raises:
            ValueError: an index of another kind, out of range, or that takes no row.
        """
        return self._redrawn(self._taken(self._checked(index)), generator)

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
    ) -> Iterator[dict[str, Tensor]]:
        r"""Goes once over the rows in batches; `shuffle` draws one permutation for the pass.

        Arguments:
            batch_size: rows per batch, at least 1.
            generator: source of the permutation and of the redrawn bits.
            shuffle: whether the rows come in random order.
            drop_last: whether a last batch of fewer than `batch_size` rows is left out.

        Returns:
            An iterator over batches, name → tensor `(B, *event)`.

        Raises:
            ValueError: a batch size below 1, or `drop_last` with fewer rows than one batch.
        """
        check_batch_size(batch_size)
        count = len(self)
        if drop_last and batch_size > count:
            raise ValueError(
                f"expected batches of at most {count} rows with drop_last, got "
                f"batch_size={batch_size}: "
                f"every row of '{self.name}' would be dropped"
            )
        stop = count - count % batch_size if drop_last else count
        order = permutation(count, generator, self.device) if shuffle else None
        return self._pass(batch_size, stop, order, generator)

    def head(self, n: int) -> "Rows":
        r"""The first `n` rows, 1 ≤ n ≤ N; another `n` is a ValueError, as nothing is clipped."""
        if not 1 <= n <= len(self):
            raise ValueError(f"expected 1 to {len(self)} rows of '{self.name}', got n={n}")
        return self.subset(slice(n))

    def subset(self, index: Tensor | slice) -> "Rows":
        r"""The rows that `batch(index)` would take, still dynamic where they were."""
        return replace(self, tensors=self._taken(self._checked(index)))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Rows":
        r"""The same rows on another device or in another floating type."""
        check_floating(dtype)
        moved = {name: t.to(device=device, dtype=dtype) for name, t in self.tensors.items()}
        return replace(self, tensors=moved)

    def binarize_once(self, seed: int) -> "Rows":
        r"""Draws the dynamic names once, so that every later batch holds the same bits.

        The bits come from a CPU generator in row order: equal on every device, but not the bits of
        a subset that was frozen by itself.

        Arguments:
            seed: of the draw.

        Returns:
            Rows without dynamic names.
        """
        generator = torch.Generator().manual_seed(seed)
        return Rows(self._redrawn(dict(self.tensors), generator), name=self.name)

    def _pass(
        self, size: int, stop: int, order: Tensor | None, generator: torch.Generator | None
    ) -> Iterator[dict[str, Tensor]]:
        for start in range(0, stop, size):
            piece = slice(start, min(start + size, stop))
            taken = self._taken(piece if order is None else order[piece])
            yield self._redrawn(taken, generator)

    def _taken(self, index: Tensor | slice) -> dict[str, Tensor]:
        if isinstance(index, slice):
            return {name: tensor[index] for name, tensor in self.tensors.items()}
        return {name: tensor.index_select(0, index) for name, tensor in self.tensors.items()}

    def _redrawn(
        self, batch: dict[str, Tensor], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        # In the order of the tensors, so that a seed fixes the bits of every name.
        return {
            name: _bernoulli(tensor, generator) if name in self.dynamic else tensor
            for name, tensor in batch.items()
        }

    def _checked(self, index: Tensor | slice | None) -> Tensor | slice:
        count = len(self)
        if index is None:
            return slice(None)
        if isinstance(index, slice):
            if (index.step or 1) < 1 or not range(*index.indices(count)):
                raise ValueError(
                    f"expected a slice that takes at least one of {count} rows of '{self.name}' "
                    f"in rising order, got {index}"
                )
            return index
        if not isinstance(index, Tensor):
            raise ValueError(
                f"expected a tensor of row numbers, a slice or None, got {type(index).__name__}"
            )
        return row_numbers(index, count, self.name).to(self.device)


def _bernoulli(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    r"""One 0/1 draw of each probability; NaN stays NaN (a missing value has no bit)."""
    # Drawn where the generator lives, so that a CPU generator gives the same bits on every device.
    device = probabilities.device if generator is None else generator.device
    dtype = torch.float32 if probabilities.dtype in HALVES else probabilities.dtype
    uniform = torch.rand(probabilities.shape, generator=generator, device=device, dtype=dtype)
    bits = (uniform.to(probabilities.device) < probabilities).to(probabilities.dtype)
    return torch.where(probabilities.isnan(), probabilities, bits)


def permutation(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    r"""Row numbers in random order, `(count,)`, drawn where the generator lives."""
    where = device if generator is None else generator.device
    return torch.randperm(count, generator=generator, device=where).to(device)
