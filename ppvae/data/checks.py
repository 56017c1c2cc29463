r"""What `Rows` holds true of itself, and the faults it reports when told otherwise."""

__all__ = [
    "check_batch_size",
    "check_floating",
    "check_probabilities",
    "check_tensors",
    "row_numbers",
]

import torch
from torch import Tensor

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_batch_size(batch_size: int) -> None:
    r"""Raises ValueError unless it is a whole number of at least 1."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"expected a batch size of at least 1 row, got {batch_size!r}")


def check_floating(dtype: torch.dtype | None) -> None:
    r"""Raises ValueError unless rows can have this type; None keeps theirs."""
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"expected a floating dtype for the rows, got {dtype}")


def row_numbers(index: Tensor, count: int, name: str) -> Tensor:
    r"""Row numbers `(B,)` from row numbers or a mask, all in range.

    Checked here, because on a GPU an index out of range is an assertion that ends the process.
    """
    if index.dtype == torch.bool and index.shape == (count,):
        index = index.nonzero().squeeze(1)
    if index.dtype not in INTEGERS or index.dim() != 1 or index.numel() == 0:
        raise ValueError(
            f"expected row numbers of shape (B,) with B ≥ 1, or a mask of shape ({count},) that "
            f"is true somewhere, got {index.dtype} of shape {tuple(index.shape)}"
        )
    index = index.long()
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= count:
        raise ValueError(
            f"expected row numbers from 0 to {count - 1} of '{name}', got {low} to {high}"
        )
    return index


def check_tensors(tensors: dict[str, Tensor], rows: str) -> None:
    r"""Raises ValueError unless names, types, numbers of rows and devices agree."""
    if not tensors:
        raise ValueError(f"expected at least one named tensor in '{rows}', got none")
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, rows)
    (first, lead), *others = tensors.items()
    for name, tensor in others:
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


def check_probabilities(tensors: dict[str, Tensor], name: str, rows: str) -> None:
    r"""Raises ValueError unless the dynamic `name` is there and its values lie within [0, 1]."""
    if name not in tensors:
        raise ValueError(f"expected dynamic names among {list(tensors)} of '{rows}', got {name!r}")
    # Written so that NaN, which compares false with everything, passes.
    if bool((tensors[name] < 0).any()) or bool((tensors[name] > 1).any()):
        raise ValueError(
            f"expected probabilities within [0, 1] at the dynamic name '{name}' of '{rows}', "
            "got values outside: rescale them"
        )


def _check_tensor(name: str, tensor: Tensor, rows: str) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"expected names that are non-empty strings in '{rows}', got {name!r}")
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"expected a floating tensor at '{name}', got {kind}: use as_rows")
    if tensor.dim() == 0:
        raise ValueError(
            f"expected rows of shape (N, *event) at '{name}', got a single number of shape ()"
        )
    if tensor.shape[0] == 0:
        raise ValueError(
            f"expected at least one row, got an empty tensor of shape {tuple(tensor.shape)} at "
            f"'{name}'"
        )
