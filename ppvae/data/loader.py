r"""A torch `DataLoader` as rows: read epoch by epoch, in its own order, cut into batches anew."""

__all__ = ["LoaderRows"]

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro.util
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from .columns import concatenate, name_parts, to_tensors
from .rows import Rows
from .stream import Stream


@dataclass(frozen=True, eq=False, repr=False)
class LoaderRows(Stream):
    r"""The rows of a `DataLoader`, whose passes are the epochs.

    They come in the loader's own order, and are cut into batches of the size that is asked for,
    whatever the loader's. What it draws in a pass (order, augmentation) is fixed by the generator
    of the pass alone, so that a pass can be repeated: the generators of torch, NumPy and Python are
    the loader's own while it works. Workers that persist keep theirs from pass to pass: where they
    draw, a pass cannot be repeated.

    Arguments:
        loader: with batches that are a tensor (the site `x`), a pair (`x`, `y`), or a dict.
        num_rows: rows of a pass; None asks the loader's sampler or data set, or else counts them in
            one pass.
        name, device, dtype: as in `Stream`.

    Raises:
        ValueError: an empty loader, or one that gives each process rows of its own; later, passes
            that differ in length.
    """

    loader: DataLoader[Any]
    num_rows: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.loader.sampler, DistributedSampler):
            raise ValueError(
                "expected a loader of all rows, got one with a DistributedSampler: fit divides the "
                "rows itself"
            )
        if self.num_rows is None:
            declared = _declared_rows(self.loader)
            if declared is None:
                declared = sum(map(_num_rows, self._parts(seed=0)))
            object.__setattr__(self, "num_rows", declared)
        if self.num_rows == 0:
            raise ValueError("expected at least one row, got an empty loader")

    def __len__(self) -> int:
        return self.num_rows or 0

    def read(self, size: int, generator: torch.Generator | None, shuffle: bool) -> Iterator[Rows]:
        r"""As for every stream; `shuffle` is the loader's to decide."""
        where = None if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=where))
        held: list[dict[str, Tensor]] = []
        count = 0
        for part in self._parts(seed):
            held.append(part)
            count += _num_rows(part)
            if count > len(self):
                break
            if sum(map(_num_rows, held)) >= size:
                whole = concatenate(held)
                full = _num_rows(whole) // size * size
                for start in range(0, full, size):
                    batch = {key: value[start : start + size] for key, value in whole.items()}
                    yield Rows(batch, name=self.name)
                held = [{key: value[full:] for key, value in whole.items()}]
        if count != len(self):
            raise ValueError(
                f"expected {len(self)} rows in every pass of the loader, got "
                f"{'more' if count > len(self) else count}: give its data set, or its sampler, the "
                "length that it has"
            )
        rest = concatenate(held)
        if _num_rows(rest):
            yield Rows(rest, name=self.name)

    def _parts(self, seed: int) -> Iterator[dict[str, Tensor]]:
        r"""One pass, in the loader's own batches."""
        for part in (self.loader, self.loader.sampler, self.loader.batch_sampler):
            generator = getattr(part, "generator", None)
            if generator is not None:
                generator.manual_seed(seed)
        private = _PrivateGenerators(seed)
        with private:
            batches = iter(self.loader)
        while True:
            with private:
                batch = next(batches, None)
            if batch is None:
                return
            yield to_tensors(name_parts(batch))


class _PrivateGenerators:
    r"""A context, entered again and again, with global generators that nothing else draws from."""

    def __init__(self, seed: int) -> None:
        outer = pyro.util.get_rng_state()
        pyro.util.set_rng_seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        self.other = pyro.util.get_rng_state()
        pyro.util.set_rng_state(outer)

    def _swap(self, *_: object) -> None:
        other, self.other = self.other, pyro.util.get_rng_state()
        pyro.util.set_rng_state(other)

    __enter__ = __exit__ = _swap


def _declared_rows(loader: DataLoader[Any]) -> int | None:
    r"""Rows of a pass as the loader's sampler or data set says; None where neither does."""
    batch = loader.batch_size
    if batch is None:
        return None
    if isinstance(loader.dataset, IterableDataset):
        counted: Any = loader.dataset
    elif type(loader.batch_sampler) is BatchSampler:
        counted = loader.sampler
    else:
        return None
    if not hasattr(counted, "__len__") or (loader.drop_last and counted is loader.dataset):
        return None
    total = len(counted)
    return total - total % batch if loader.drop_last else total


def _num_rows(part: dict[str, Tensor]) -> int:
    return len(next(iter(part.values())))
