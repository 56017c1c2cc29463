r"""Progress bars on a terminal, and silence elsewhere."""

__all__ = ["Stage", "stages"]

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Stage = Callable[[str], None]
FORMAT = "{bar:20} {n_fmt}/{total_fmt} {remaining} {desc}"


@contextmanager
def stages(total: int | None, show: bool) -> Iterator[Stage]:
    """A bar of `total` steps. The yielded function names the next step and counts the last one.

    The bar is cut to the width of the terminal and disappears at the end.

    Arguments:
        total: Number of steps; None where it is not known beforehand.
        show: Whether to show it; never shown where standard error is no terminal.
    """
    if not show or not sys.stderr.isatty():
        yield lambda name: None  # tqdm would start a thread even for a bar that it does not draw
        return
    with tqdm(total=total, leave=False, dynamic_ncols=True, bar_format=FORMAT) as bar:

        def stage(name: str) -> None:
            bar.update(1 if bar.desc else 0)
            bar.set_description_str(name)

        yield stage
