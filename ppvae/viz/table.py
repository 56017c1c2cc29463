r"""A table of words and numbers, printed as wide as there is room."""

__all__ = ["Table"]

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

NUMBER = re.compile(r"[-−+]?(\d|inf\b|nan\b|$)")
STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Table:
    """Words and numbers in rows and columns.

    Arguments:
        title: Heading.
        heads: Heading of each column.
        rows: As many cells each as there are columns.
        notes: Lines below the table.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    @property
    def is_numeric(self) -> list[bool]:
        """Which columns hold numbers; the first column never does."""
        columns = range(len(self.heads))
        return [i > 0 and all(NUMBER.match(row[i]) for row in self.rows) for i in columns]

    def transposed(self) -> "Table":
        """The same with a column for each row."""
        heads, *rows = zip(self.heads, *self.rows, strict=True)
        return replace(self, heads=heads, rows=rows)

    def print(self, console: Console) -> None:
        """Print it as it is, with short headings, or transposed: the first that fits."""
        measure = Console(width=10_000).measure
        heads = [head.replace(" ", "\n") for head in self.heads]
        last = self.transposed() if len(self.rows) < len(heads) else self
        choices = [table._to_rich() for table in (self, replace(self, heads=heads), last)]
        fitting = [table for table in choices if measure(table).maximum <= console.width]
        console.print(fitting[0] if fitting else choices[-1])
        for note in self.notes:
            console.print(Text(note), style="dim")

    def _to_rich(self) -> RichTable:
        table = RichTable(title=Text(self.title))
        for head, is_numeric in zip(self.heads, self.is_numeric, strict=True):
            table.add_column(Text(head), justify="right" if is_numeric else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        return table
