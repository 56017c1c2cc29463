r"""Rows as batches for one story: on its device, in its precision, with dynamic bits drawn once."""

__all__ = ["iter_chunks", "reference_tensor", "to_batch"]

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .chunks import rows_per_chunk
from .convert import as_rows, open_rows
from .rows import Rows
from .stream import Stream


def reference_tensor(module: nn.Module) -> Tensor:
    """A floating tensor that shows where `module` lives and in which precision it computes."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor
    return torch.empty(0)


def to_batch(story: nn.Module, data: Any, num_rows: int | None = None) -> dict[str, Tensor]:
    """Rows as one batch, on the story's device and in its precision; dynamic bits are drawn once.

    Arguments:
        story: The story; any module with parameters or buffers.
        data: Anything that `as_rows` takes.
        num_rows: Only the first so many, of a stream too; None takes all.

    Returns:
        Name -> `(B, *event)`.
    """
    if num_rows is None:
        rows = as_rows(data)
    else:
        opened = open_rows(data)
        rows = opened.head(min(num_rows, len(opened)))
    like = reference_tensor(story)
    rows = rows.binarize_once(seed=0).to(device=like.device, dtype=like.dtype)
    return dict(rows.tensors)


def iter_chunks(story: nn.Module, rows: Rows | Stream) -> Iterator[dict[str, Tensor]]:
    """What `to_batch` gives, in chunks for one particle; of a stream one is in memory at a time."""
    like, step = reference_tensor(story), rows_per_chunk(rows.head(1).tensors)
    if isinstance(rows, Rows):
        rows = rows.binarize_once(seed=0)
    bits = torch.Generator().manual_seed(0)
    yield from rows.to(like.device, like.dtype).batches(step, generator=bits)
