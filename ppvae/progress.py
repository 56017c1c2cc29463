r"""Progress bars on a terminal, and silence elsewhere."""

__all__ = ["Stage", "stages"]

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Stage = Callable[[str], None]


@contextmanager
def stages(total: int | None, show: bool) -> Iterator[Stage]:
    """A bar of `total` steps; the function that it gives names the next step and counts the last.

    Arguments:
        total: Number of steps; None where it is not known beforehand.
        show: Whether to show it; never shown where standard output is no terminal.
    """
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, transient=True, disable=not show) as bar:
        task = bar.add_task("", total=total, completed=-1)

        def stage(name: str) -> None:
            bar.update(task, advance=1, description=name)

        yield stage
