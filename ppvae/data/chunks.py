r"""Cutting rows and particles into pieces that bound the memory of streaming."""

__all__ = [
    "CHUNK_NUMBERS",
    "is_unamortized",
    "numbers_per_row",
    "particle_step",
    "pieces",
    "row_chunks",
    "row_slices",
    "rows_per_chunk",
]

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

# Numbers that one chunk of particles and rows may hold per observed entry.
CHUNK_NUMBERS = 2**23
MAX_CHUNK_ROWS = 1000


def row_chunks(
    batch: Mapping[str, Tensor], guide: nn.Module | None = None
) -> Iterator[dict[str, Tensor]]:
    """Cut a batch into pieces that one particle of fits in a chunk.

    A guide that holds parameters for each row (`local`) can only be called on its own rows: its
    batch is not cut.
    """
    step = len(next(iter(batch.values())))
    if not is_unamortized(guide):
        step = rows_per_chunk(batch)
    yield from row_slices(batch, step)


def rows_per_chunk(batch: Mapping[str, Tensor], num_particles: int = 1) -> int:
    """Rows of which so many particles fit in a chunk, 1000 at most."""
    return max(1, min(MAX_CHUNK_ROWS, CHUNK_NUMBERS // (numbers_per_row(batch) * num_particles)))


def is_unamortized(guide: nn.Module | None) -> bool:
    """Whether a guide holds parameters for each row: it can only be called on all its own rows."""
    return bool(getattr(guide, "is_unamortized", False))


def row_slices(batch: Mapping[str, Tensor], step: int) -> Iterator[dict[str, Tensor]]:
    """Cut a batch into pieces of `step` rows, the last one shorter."""
    for start in range(0, len(next(iter(batch.values()))), step):
        yield {k: v[start : start + step] for k, v in batch.items()}


def particle_step(batch: Mapping[str, Tensor], num_rows: int) -> int:
    """Particles that one chunk of `num_rows` rows may hold."""
    return max(1, CHUNK_NUMBERS // (numbers_per_row(batch) * num_rows))


def pieces(total: int, step: int) -> list[int]:
    """Sizes of the pieces of at most `step` that make up `total`."""
    return [min(step, total - start) for start in range(0, total, step)]


def numbers_per_row(batch: Mapping[str, Tensor]) -> int:
    """Numbers in one row; at least 256, which stands for hidden layers."""
    return max(256, sum(v[0].numel() for v in batch.values()))
