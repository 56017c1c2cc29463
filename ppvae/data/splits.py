r"""Which rows are train, valid and test: fixed, named, and the same on every machine."""

__all__ = ["FILE_HELD_OUT", "PARTS", "check_split", "split_indices"]

from collections.abc import Mapping, Sequence

import numpy as np

PARTS: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid",),
    "test": ("test",),
    "train+valid": ("train", "valid"),
    "all": ("train", "valid", "test"),
}
# A file without splits of its own is shuffled and cut into 80 / 10 / 10 per cent.
FILE_HELD_OUT = {"valid": 0.1, "test": 0.1}
# Seed of every shuffle before a split. No argument changes it, so that a split's name says all.
SPLIT_SEED = 0


def check_split(split: str) -> None:
    r"""Raises ValueError unless `split` is one of `PARTS`."""
    if split not in PARTS:
        raise ValueError(f"expected a split among {', '.join(PARTS)}, got {split!r}")


def split_indices(
    rows: int, parts: Sequence[str], held_out: Mapping[str, float], *, shuffled: bool
) -> dict[str, np.ndarray]:
    r"""Cuts the rows of a pool into parts in order; the first takes what the others leave.

    Arguments:
        rows: rows in the pool.
        parts: names of the parts in the pool, in order.
        held_out: for every part but the first, its number of rows (≥ 1) or its share of them (< 1).
        shuffled: whether the rows are permuted first. NumPy's legacy generator does it, because its
            numbers never change, while those of newer generators may.

    Returns:
        part → row numbers `(n,)`.

    Raises:
        ValueError: too few rows for every part to have one.
    """
    order = np.random.RandomState(SPLIT_SEED).permutation(rows) if shuffled else np.arange(rows)
    shares = [held_out[part] for part in parts[1:]]
    sizes = [int(share * rows) if share < 1 else int(share) for share in shares]
    sizes.insert(0, rows - sum(sizes))
    if min(sizes) < 1:
        wanted = ", ".join(f"{part} {size}" for part, size in zip(parts, sizes, strict=True))
        raise ValueError(
            f"expected enough rows for every split, got {rows} rows ({wanted}): use split='all' "
            "or give more rows"
        )
    return dict(zip(parts, np.split(order, np.cumsum(sizes)[:-1]), strict=True))
