r"""Work on many rows, shared by the processes: whole pieces in turn, or a part of every piece."""

__all__ = ["by_first", "each", "over_parts"]

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from ppvae.ranks.noise import PartNoise
from ppvae.ranks.processes import all_of, alone, num_ranks, own_part, rank, told

Rows = dict[str, Tensor]
I = TypeVar("I")  # noqa: E741
T = TypeVar("T")


def by_first(work: Callable[[], T]) -> T:
    """What the first process does while the others wait; all of them have its result.

    Raises:
        ValueError: In all processes, where it came in the first.
    """
    if num_ranks() == 1:
        return work()
    found: Any = _tried(lambda _: work(), None) if rank() == 0 else None
    result: T = _unless_error(told(found))
    return result


def each(work: Callable[[I], T], items: Sequence[I]) -> list[T]:
    """Work on each item, the processes in turn; all of them have all results.

    For work that looks at its rows together, such as a search that stops for all of them at once: the results depend on
    how rows are cut into items, and on nothing else.

    Arguments:
        work: What is done; its seed must not depend on the process.
        items: What it is done with.

    Returns:
        The results, in the order of the items.

    Raises:
        ValueError: In all processes, where it came in one.
    """
    if num_ranks() == 1:
        return [work(item) for item in items]
    mine = [n for n in range(len(items)) if n % num_ranks() == rank()]
    with alone():
        own = {n: _tried(work, items[n]) for n in mine}
    found = {n: result for some in all_of(own) for n, result in some.items()}
    return [_unless_error(found[n]) for n in range(len(items))]


def over_parts(
    work: Callable[[Rows, int], T], pieces: Iterable[Rows], *, whole: bool = False
) -> list[T]:
    """Work on each piece of the rows, each process on its part of it, with the draws of the whole piece.

    For work that looks at each row by itself: the results are those of a process alone.

    Arguments:
        work: What is done with a part's rows, and the number of rows of the piece.
        pieces: The rows, name -> `(b, *event)`, piece by piece.
        whole: Whether every process works on all rows, as a guide asks for that has parameters for each.

    Returns:
        Results of all parts in the order of the rows, to be joined.

    Raises:
        ValueError: In all processes, where it came in one.
    """
    if num_ranks() == 1 or whole:
        return [work(piece, _size(piece)) for piece in pieces]
    own: list[Any] = []
    for piece in pieces:
        part = own_part(_size(piece))
        with PartNoise(part):
            found = _tried(lambda rows: work(rows, part.total), part.of(piece))  # noqa: B023
        own.append((found, part.stop > part.first))
    # Process by process of each piece: the order of the rows.
    in_order = [result for piece in zip(*all_of(own), strict=True) for result in piece]
    return [_unless_error(found) for found, is_there in in_order if is_there]


def _size(piece: Rows) -> int:
    return len(next(iter(piece.values())))


def _tried(work: Callable[[I], T], item: I) -> T | ValueError:
    """An error too is told to all: who waited for a process that has ended would never say what was wrong."""
    try:
        return work(item)
    except ValueError as error:
        return error


def _unless_error(found: T | ValueError) -> T:
    if isinstance(found, ValueError):
        raise found
    return found
