r"""How many rows and particles fit in memory at a time."""

__all__ = [
    "CHUNK_NUMBERS",
    "is_unamortized",
    "numbers_per_row",
    "particle_step",
    "pieces",
    "rows_per_chunk",
]

from collections.abc import Mapping

from torch import Tensor, nn

# Numbers that one chunk of particles and rows may hold per observed entry.
CHUNK_NUMBERS = 2**23
MAX_CHUNK_ROWS = 1000


def rows_per_chunk(batch: Mapping[str, Tensor], num_particles: int = 1) -> int:
    """Rows of which so many particles fit in a chunk, 1000 at most."""
    return max(1, min(MAX_CHUNK_ROWS, CHUNK_NUMBERS // (numbers_per_row(batch) * num_particles)))


def is_unamortized(guide: nn.Module | None) -> bool:
    """Whether a guide holds parameters for each row: it can only be called on all its own rows."""
    return bool(getattr(guide, "is_unamortized", False))


def particle_step(batch: Mapping[str, Tensor], num_rows: int) -> int:
    """Particles that one chunk of `num_rows` rows may hold."""
    return max(1, CHUNK_NUMBERS // (numbers_per_row(batch) * num_rows))


def pieces(total: int, step: int) -> list[int]:
    """Sizes of the pieces of at most `step` that make up `total`."""
    return [min(step, total - start) for start in range(0, total, step)]


def numbers_per_row(batch: Mapping[str, Tensor]) -> int:
    """Numbers in one row; at least 256, which stands for hidden layers."""
    return max(256, sum(v[0].numel() for v in batch.values()))
