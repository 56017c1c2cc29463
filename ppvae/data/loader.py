r"""A torch `DataLoader` as rows: read epoch by epoch, in its own order, cut into batches anew."""

__all__ = ["LoaderRows"]

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro.util
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from .collect import concatenated, named, tensors_of
from .rows import Rows
from .stream import Stream

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False, repr=False)
class LoaderRows(Stream):
    r"""The rows of a `DataLoader`, whose passes are the epochs.

    They come in the loader's own order, and are cut into batches of the size that is asked for, whatever the loader's. What
    it draws in a pass (order, augmentation) is fixed by the generator of the pass alone, so that a pass can be repeated: the
    generators of torch, NumPy and Python are the loader's own while it works. Workers that persist keep theirs from pass to pass
    and cannot be repeated, if they draw.

    Arguments:
        loader: with batches that are a tensor (the site `x`), a pair (`x`, `y`), or a dict.
        name, device, dtype: as in `Stream`.
        num_rows: rows of a pass; None asks the loader's sampler or data set, or else counts them in one pass.

    Raises:
        ValueError: an empty loader, or one that shows each process rows of its own; later, passes that differ in length.
    """

    loader: DataLoader[Any]
    name: str = "data"
    device: torch.device = CPU
    dtype: torch.dtype | None = None
    num_rows: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.loader.sampler, DistributedSampler):
            raise ValueError(
                "expected a loader of all rows, got one with a DistributedSampler: batches are cut over the processes here"
            )
        if self.num_rows is None:
            declared = _declared(self.loader)
            if declared is None:
                declared = sum(map(_num_rows, self._parts(seed=0)))
            object.__setattr__(self, "num_rows", declared)
        if self.num_rows == 0:
            raise ValueError("expected at least one row, got an empty loader")

    def __len__(self) -> int:
        return self.num_rows or 0

    def pieces(self, size: int, generator: torch.Generator | None, shuffle: bool) -> Iterator[Rows]:
        r"""As for every stream; `shuffle` is the loader's to decide."""
        where = CPU if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=where))
        for batch in _recut(self._counted(self._parts(seed)), size):
            yield Rows(batch, name=self.name)

    def _parts(self, seed: int) -> Iterator[dict[str, Tensor]]:
        r"""One pass, in the loader's own batches."""
        noise = _OwnNoise(seed)
        for holder in (self.loader, self.loader.sampler, self.loader.batch_sampler):
            generator = getattr(holder, "generator", None)
            if generator is not None:
                generator.manual_seed(seed)
        with noise:
            batches = iter(self.loader)
        while True:
            with noise:
                batch = next(batches, None)
            if batch is None:
                return
            yield tensors_of(named(batch))

    def _counted(self, parts: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        count = 0
        for part in parts:
            count += _num_rows(part)
            if count > len(self):
                break
            yield part
        if count != len(self):
            raise ValueError(
                f"expected {len(self)} rows in every pass of the loader, got {'more' if count > len(self) else count}: "
                "give its data set, or its sampler, the length that it has"
            )


class _OwnNoise:
    r"""A context, entered again and again, in which the global generators are its own."""

    def __init__(self, seed: int) -> None:
        self.outer = pyro.util.get_rng_state()
        pyro.util.set_rng_seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        self.own = pyro.util.get_rng_state()
        pyro.util.set_rng_state(self.outer)

    def __enter__(self) -> None:
        self.outer = pyro.util.get_rng_state()
        pyro.util.set_rng_state(self.own)

    def __exit__(self, *fault: object) -> None:
        self.own = pyro.util.get_rng_state()
        pyro.util.set_rng_state(self.outer)


def _declared(loader: DataLoader[Any]) -> int | None:
    r"""Rows of a pass as the loader's parts say; None where they do not."""
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


def _recut(parts: Iterable[dict[str, Tensor]], size: int) -> Iterator[dict[str, Tensor]]:
    r"""The same rows in batches of `size`, the last one shorter."""
    held: list[dict[str, Tensor]] = []
    for part in parts:
        held.append(part)
        if sum(map(_num_rows, held)) < size:
            continue
        whole = concatenated(held)
        full = _num_rows(whole) // size * size
        for start in range(0, full, size):
            yield {key: value[start : start + size] for key, value in whole.items()}
        rest = {key: value[full:] for key, value in whole.items()}
        held = [rest] if _num_rows(rest) else []
    if held:
        yield concatenated(held)


def _num_rows(part: dict[str, Tensor]) -> int:
    return len(next(iter(part.values())))
