r"""The league table: what each of several guides loses on the same rows."""

__all__ = ["League", "LeagueRow"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor, nn

from ppvae.estimate import Estimate
from ppvae.gaps import Gaps
from ppvae.inference import Sandwich
from ppvae.inference.khat import khat_threshold
from ppvae.training import History

HEADS = (
    "guide", "ELBO", "log p̂(x)", "by", "approximation gap", "amortization gap", "inference gap",
    "k-hat share", "seconds",
)  # fmt: skip
BOUNDLESS = 10_000  # letters a line


@dataclass(frozen=True)
class LeagueRow:
    """One guide's line of the table; all estimates are means over the rows, in nats per row.

    Arguments:
        name: The guide.
        elbo: L[q].
        log_evidence: log p(x), or the best lower bound found.
        evidence_method: How it was found.
        approximation_gap: log p(x) − L[q*].
        amortization_gap: L[q*] − L[q].
        inference_gap: log p(x) − L[q].
        khat_share: Share of rows whose k-hat is above the threshold, 0 to 1.
        seconds: Training time of the guide (with its story, where it has one of its own).
    """

    name: str
    elbo: Estimate
    log_evidence: Estimate
    evidence_method: str
    approximation_gap: Estimate
    amortization_gap: Estimate
    inference_gap: Estimate
    khat_share: float
    seconds: float


@dataclass(frozen=True)
class League:
    """The comparison of guides on the same rows.

    Arguments:
        gaps: Guide -> its gaps per row.
        histories: Guide -> its training.
        stories: Guide -> the trained story that it was measured on.
        guides: Guide -> the trained guide.
        decoder: `shared` or `own`.
        num_particles: Particles behind each k-hat.
        settings: What was asked for, and the seconds that it took.
    """

    gaps: dict[str, Gaps]
    histories: dict[str, History]
    stories: dict[str, nn.Module]
    guides: dict[str, nn.Module]
    decoder: str
    num_particles: int
    settings: dict[str, Any]

    @property
    def num_rows(self) -> int:
        """Rows on which the guides were measured."""
        return len(next(iter(self.gaps.values())).elbo)

    @property
    def khat(self) -> dict[str, Tensor]:
        """Guide -> k-hat of each row, `(B,)`."""
        return {name: g.khat for name, g in self.gaps.items()}

    @property
    def khat_threshold(self) -> float:
        """k-hat above which a row's weights are not to be trusted."""
        return khat_threshold(self.num_particles)

    @property
    def certificates(self) -> list[str]:
        """In words, how far annealing can be off, measured on simulated rows; one line a story."""
        widths = {
            name: _in_words(g.certificate)
            for name, g in self.gaps.items()
            if g.certificate is not None
        }
        if self.decoder == "shared":
            return list(widths.values())[:1]
        return [f"{name}: {text}" for name, text in widths.items()]

    @property
    def rows(self) -> list[LeagueRow]:
        """The table, in the order of the guides."""
        return [self._row(name, found) for name, found in self.gaps.items()]

    def _row(self, name: str, found: Gaps) -> LeagueRow:
        return LeagueRow(
            name=name,
            elbo=found.elbo.mean(),
            log_evidence=found.log_evidence.mean(),
            evidence_method=found.method,
            approximation_gap=found.approximation_gap.mean(),
            amortization_gap=found.amortization_gap.mean(),
            inference_gap=found.inference_gap.mean(),
            khat_share=float((found.khat > self.khat_threshold).float().mean()),
            seconds=self.histories[name].seconds,
        )

    def differences(self) -> list[tuple[str, Estimate, Estimate]]:
        """Against the first guide, paired over rows: (name, ELBO difference, inference-gap difference), in nats."""
        (_, first), *others = self.gaps.items()
        return [
            (name, (g.elbo - first.elbo).mean(), (g.inference_gap - first.inference_gap).mean())
            for name, g in others
        ]

    def to_pandas(self) -> pd.DataFrame:
        """One line a guide; standard errors in columns that end in `_std_error`."""
        lines = []
        for row in self.rows:
            line: dict[str, Any] = {"guide": row.name, "evidence_method": row.evidence_method}
            for key, value in vars(row).items():
                if isinstance(value, Estimate):
                    line[key] = float(value.value)
                    line[f"{key}_std_error"] = float(value.std_error)
            lines.append(line | {"khat_share": row.khat_share, "seconds": row.seconds})
        return pd.DataFrame(lines).set_index("guide")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A line for each guide; a column for each where the lines would be too long."""
        cells = [HEADS, *map(_cells, self.rows)]
        lines = self._table(cells)
        if (
            console.measure(lines, options=options.update(width=BOUNDLESS)).maximum
            <= options.max_width
        ):
            yield lines
        else:
            yield self._table(list(zip(*cells, strict=True)))

    def _table(self, cells: Sequence[Sequence[str]]) -> Table:
        notes = [
            f"± one standard error; share of rows with k-hat > {self.khat_threshold:.2f}",
            *self.certificates,
        ]
        title = f"Guides on {self.num_rows} rows, {self.decoder} story, nats per row"
        table = Table(title=title, caption="\n".join(notes))
        for number, head in enumerate(cells[0]):
            table.add_column(head, justify="right" if number else "left")
        for line in cells[1:]:
            table.add_row(*line)
        return table

    def __str__(self) -> str:
        console = Console(width=150, record=True, file=None, quiet=False)
        with console.capture() as captured:
            console.print(self)
        return captured.get()


def _in_words(certificate: Sandwich) -> str:
    width = f"{certificate.width.mean()} nats"
    rows = f"BDMC, {len(certificate.lower)} rows"
    if certificate.converged:
        return f"annealing certified to {width} ({rows})"
    verdict, _, _ = certificate.verdict.partition(":")
    return (
        f"annealing {verdict}: bounds on log p(x) lie {width} apart ({rows}), and log p̂(x) and the gaps "
        "may be too small by as much"
    )


def _cells(row: LeagueRow) -> tuple[str, ...]:
    gaps = (row.approximation_gap, row.amortization_gap, row.inference_gap)
    return (
        row.name, str(row.elbo), str(row.log_evidence), row.evidence_method, *map(str, gaps),
        f"{row.khat_share:.0%}", f"{row.seconds:.1f}",
    )  # fmt: skip
