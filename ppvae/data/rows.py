r"""`Rows`: named tensors in memory that share their first dimension, and batches of them."""

__all__ = ["Rows", "check_batch_size", "check_floating", "permutation"]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


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
        object.__setattr__(self, "tensors", dict(self.tensors))
        object.__setattr__(self, "dynamic", frozenset(self.dynamic))
        _check_tensors(self.tensors, self.name)
        for name in self.dynamic:
            if name not in self.tensors:
                raise ValueError(
                    f"expected dynamic names among {list(self.tensors)} of '{self.name}', "
                    f"got {name!r}"
                )
            # Written so that NaN, which compares false with everything, passes.
            if bool(((self.tensors[name] < 0) | (self.tensors[name] > 1)).any()):
                raise ValueError(
                    f"expected probabilities within [0, 1] at the dynamic name '{name}' of "
                    f"'{self.name}', got values outside: rescale them"
                )

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

    @property
    def device(self) -> torch.device:
        r"""The device that holds all the tensors."""
        return next(iter(self.tensors.values())).device

    def batch(
        self, index: Tensor | slice | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        r"""Takes rows, with the dynamic names redrawn: a story gets bits, not probabilities.

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
        return self._redraw(self._take(self._check_index(index)), generator)

    def batches(
        self, batch_size: int, *, generator: torch.Generator | None = None, shuffle: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        r"""Goes once over the rows in batches; `shuffle` draws one permutation for the pass.

        Arguments:
            batch_size: rows per batch, at least 1; the last batch may have fewer.
            generator: source of the permutation and of the redrawn bits.
            shuffle: whether the rows come in random order.

        Returns:
            An iterator over batches, name → tensor `(B, *event)`.

        Raises:
            ValueError: a batch size below 1.
        """
        check_batch_size(batch_size)
        order = permutation(len(self), generator, self.device) if shuffle else None
        pieces = (slice(i, i + batch_size) for i in range(0, len(self), batch_size))
        indices = pieces if order is None else (order[piece] for piece in pieces)
        return (self._redraw(self._take(index), generator) for index in indices)

    def head(self, n: int) -> "Rows":
        r"""The first `n` rows, 1 ≤ n ≤ N; another `n` is a ValueError, as nothing is clipped."""
        if not 1 <= n <= len(self):
            raise ValueError(f"expected 1 to {len(self)} rows of '{self.name}', got n={n}")
        return self.subset(slice(n))

    def subset(self, index: Tensor | slice) -> "Rows":
        r"""The rows that `batch(index)` would take, still dynamic where they were."""
        return replace(self, tensors=self._take(self._check_index(index)))

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
        a subset that was binarized by itself.

        Arguments:
            seed: of the draw.

        Returns:
            Rows without dynamic names.
        """
        generator = torch.Generator().manual_seed(seed)
        return Rows(self._redraw(dict(self.tensors), generator), name=self.name)

    def _take(self, index: Tensor | slice) -> dict[str, Tensor]:
        if isinstance(index, slice):
            return {name: tensor[index] for name, tensor in self.tensors.items()}
        return {name: tensor.index_select(0, index) for name, tensor in self.tensors.items()}

    def _redraw(
        self, batch: dict[str, Tensor], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        # In the order of the tensors, so that a seed fixes the bits of every name.
        return {
            name: _bernoulli(tensor, generator) if name in self.dynamic else tensor
            for name, tensor in batch.items()
        }

    def _check_index(self, index: Tensor | slice | None) -> Tensor | slice:
        r"""Checked here, because on a GPU an index out of range ends the process."""
        count, found = len(self), repr(index)
        if index is None:
            return slice(None)
        if isinstance(index, slice) and (index.step or 1) > 0 and range(*index.indices(count)):
            return index
        if isinstance(index, Tensor):
            found = f"{index.dtype} of shape {tuple(index.shape)}"
            if index.dtype == torch.bool and index.shape == (count,):
                index = index.nonzero().squeeze(1)
            if index.dtype in INTEGERS and index.dim() == 1 and index.numel():
                low, high = int(index.min()), int(index.max())
                if low >= 0 and high < count:
                    return index.long().to(self.device)
                found = f"{low} to {high}"
        raise ValueError(
            f"expected row numbers (B,) from 0 to {count - 1} of '{self.name}', a mask ({count},) "
            f"or a slice in rising order, any of which takes at least one row, got {found}"
        )


def check_batch_size(batch_size: int) -> None:
    r"""Raises ValueError unless it is a whole number of at least 1."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"expected a batch size of at least 1 row, got {batch_size!r}")


def check_floating(dtype: torch.dtype | None) -> None:
    r"""Raises ValueError unless rows can have this type; None keeps theirs."""
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"expected a floating dtype for the rows, got {dtype}")


def permutation(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    r"""Row numbers in random order, `(count,)`, drawn where the generator lives."""
    where = device if generator is None else generator.device
    return torch.randperm(count, generator=generator, device=where).to(device)


def _bernoulli(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    r"""One 0/1 draw of each probability; NaN stays NaN (a missing value has no bit)."""
    # Drawn where the generator lives, so that a CPU generator gives the same bits on every device.
    device = probabilities.device if generator is None else generator.device
    dtype = torch.float32 if probabilities.dtype in HALVES else probabilities.dtype
    uniform = torch.rand(probabilities.shape, generator=generator, device=device, dtype=dtype)
    bits = (uniform.to(probabilities.device) < probabilities).to(probabilities.dtype)
    return torch.where(probabilities.isnan(), probabilities, bits)


def _check_tensors(tensors: Mapping[str, Tensor], rows: str) -> None:
    r"""Raises ValueError unless names, types, numbers of rows and devices agree."""
    if not tensors:
        raise ValueError(f"expected at least one named tensor in '{rows}', got none")
    first, lead = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"expected names that are non-empty strings in '{rows}', got {name!r}")
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"expected a floating tensor at '{name}', got {kind}: use as_rows")
        if tensor.dim() == 0 or tensor.shape[0] == 0:
            raise ValueError(
                f"expected at least one row, of shape (N, *event), at '{name}', got a tensor of "
                f"shape {tuple(tensor.shape)}"
            )
        if tensor.shape[0] != lead.shape[0]:
            raise ValueError(
                f"expected the same number of rows at every name, got {lead.shape[0]} at '{first}' "
                f"and {tensor.shape[0]} at '{name}'"
            )
        if tensor.device != lead.device:
            raise ValueError(
                f"expected all tensors on one device, got '{first}' on {lead.device} "
                f"and '{name}' on {tensor.device}"
            )
