r"""Grey values → bits: drawn in every batch, drawn once, cut at a half, or left as they are."""

__all__ = ["BINARIZE", "Binarize", "binarize_parts"]

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .columns import concatenate
from .rows import Rows

Binarize = Literal["dynamic", "static", "threshold", "none"]
BINARIZE: tuple[Binarize, ...] = ("dynamic", "static", "threshold", "none")

# Each part has a seed of its own, so that joining splits changes no bit.
PART_SEEDS = {"train": 0, "valid": 1, "test": 2, "all": 3}


def binarize_parts(
    parts: list[tuple[str, dict[str, Tensor]]], binarize: Binarize, seed: int, name: str
) -> Rows:
    r"""Joins the parts of a split, with the site `x` in the form asked for.

    Arguments:
        parts: each its name (a key of `PART_SEEDS`) and name → tensor `(n, *event)`; `x` within
            [0, 1] or NaN.
        binarize: one of `BINARIZE`.
        seed: of the static bits, 0 ≤ seed < 2³².
        name: of the data.

    Raises:
        ValueError: no `x` to binarize, or values of it outside [0, 1].
    """
    for part, columns in parts:
        if binarize == "none":
            break
        if "x" not in columns:
            raise ValueError(
                f"expected a key 'x' to binarize in '{name}', got {list(columns)}: use "
                "binarize='none'"
            )
        low, high = (float(edge) for edge in columns["x"].nan_to_num(0.5).aminmax())
        if low < 0 or high > 1:
            raise ValueError(
                f"expected values within [0, 1] to binarize at 'x' of '{name}', got "
                f"{low:g} to {high:g}: rescale them or use binarize='none'"
            )
        columns["x"] = _binarize(columns["x"], binarize, [seed, PART_SEEDS[part]])
    dynamic = frozenset({"x"} if binarize == "dynamic" else ())
    return Rows(concatenate(columns for _, columns in parts), dynamic, name)


def _binarize(p: Tensor, how: Binarize, seed: list[int]) -> Tensor:
    r"""Bits of probabilities `(N, *event)`; NaN stays NaN, because a missing value has no bit."""
    if how == "dynamic":
        return p
    if how == "threshold":
        return torch.where(p.isnan(), p, (p > 0.5).to(p.dtype))
    # NumPy's legacy generator never changes: a seed gives the same bits in every version.
    # In pieces, because the uniform numbers of all rows at once would take 8 bytes a pixel.
    random = np.random.RandomState(seed)
    pieces = []
    for piece in p.split(4096):
        uniform = torch.from_numpy(random.random_sample(tuple(piece.shape)))
        pieces.append(torch.where(piece.isnan(), piece, (uniform < piece).to(p.dtype)))
    return torch.cat(pieces)
