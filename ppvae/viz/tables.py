r"""Tables of results, as plain text, on a terminal and as HTML."""

__all__ = ["Table", "differences_table", "show", "tables_of", "to_html", "to_text"]

import io
import sys
from collections import Counter
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from rich.console import Console

from ppvae.diagnostics.by_row import NUM_NAMED, ByRow
from ppvae.diagnostics.diagnose import TITLE, Diagnosis
from ppvae.diagnostics.finding import Finding, with_error
from ppvae.gaps import Gaps
from ppvae.inference.evidence_table import EvidenceTable
from ppvae.inference.methods import LOWER_BOUNDS
from ppvae.league import League
from ppvae.objectives.bench import EstimatorBench
from ppvae.training import History
from ppvae.viz.html import render
from ppvae.viz.summary import certificates, loses_most_to, nats
from ppvae.viz.table import Table

MAX_EPOCHS = 10  # of a training that are shown
FILE_WIDTH = 160  # characters of a line that goes to no terminal


def show(result: Any) -> None:
    """Print a result, or a table, on standard output; in colour on a terminal."""
    for table in tables_of(result):
        table.print(Console(width=_width()))


def to_text(result: Any, width: int | None = None) -> str:
    """The tables of a result in plain characters.

    Arguments:
        result: The result.
        width: Characters of a line; None for those of the terminal, or 160 elsewhere.
    """
    file = io.StringIO()
    for table in tables_of(result):
        table.print(Console(file=file, width=width or _width(), color_system=None))
    return file.getvalue().rstrip("\n")


def to_html(result: Any) -> str:
    """The tables of a result as HTML, for a notebook."""
    return render("tables.html", tables=tables_of(result))


def _width() -> int | None:
    return None if sys.stdout.isatty() else FILE_WIDTH


@singledispatch
def tables_of(result: Any) -> list[Table]:
    """The tables that show a result; those without one of their own show their findings.

    Raises:
        TypeError: If the result has none.
    """
    findings = getattr(result, "findings", None)
    if findings is None:
        raise TypeError(f"expected a result that has a table, got {type(result).__name__}")
    return [_findings_table(type(result).__name__, findings)]


@tables_of.register
def _(table: Table) -> list[Table]:
    return [table]


@tables_of.register
def _(league: League) -> list[Table]:
    heads = (
        "guide", "ELBO", "log p̂(x)", "by", "approximation gap", "amortization gap",
        "inference gap", "loses most to", "k-hat share", "seconds",
    )  # fmt: skip
    rows = []
    for row in league.rows:
        gaps = (row.approximation_gap, row.amortization_gap, row.inference_gap)
        rows.append((
            row.name, nats(row.elbo), nats(row.log_evidence), row.evidence_method,
            *map(nats, gaps), loses_most_to(row), f"{row.khat_share:.0%}", f"{row.seconds:.1f}",
        ))  # fmt: skip
    notes = (
        f"± one standard error; share of rows with k-hat > {league.khat_threshold:.2f}",
        *certificates(league),
    )
    title = f"Guides on {league.num_rows} rows, {league.decoder} story, nats per row"
    return [Table(title, heads, rows, notes)]


def differences_table(league: League) -> Table:
    """Each guide against the first, paired over the rows."""
    first = league.rows[0].name
    rows = [(name, nats(elbo), nats(gap)) for name, elbo, gap in league.differences()]
    note = (
        f"Guide minus {first}, paired over the rows, in nats per row, ± one standard error. Paired "
        "differences are surer than differences of the columns above, because rows that are hard "
        "for one guide are hard for all."
    )
    return Table(f"Differences from {first}", ("guide", "ELBO", "inference gap"), rows, (note,))


@tables_of.register
def _(history: History) -> list[Table]:
    step = -(-len(history.records) // MAX_EPOCHS) or 1
    rows = [
        (str(r["epoch"]), *("" if r[k] is None else f"{r[k]:.2f}" for k in ("elbo", "val_elbo")))
        for r in history.records[::-1][::step][::-1]
    ]
    notes = (f"weights of epoch {history.best_epoch}; {history.seconds:.1f} s in all",)
    return [Table("Training, nats per row", ("epoch", "ELBO", "validation ELBO"), rows, notes)]


@tables_of.register
def _(gaps: Gaps) -> list[Table]:
    names = (
        "log_evidence", "elbo_local", "elbo",
        "approximation_gap", "amortization_gap", "inference_gap",
    )  # fmt: skip
    rows = [(name, nats(getattr(gaps, name).mean())) for name in names]
    share = float((gaps.khat > gaps.khat_threshold).float().mean())
    notes = [f"k-hat above {gaps.khat_threshold:.2f} on {share:.0%} of the rows"]
    if gaps.certificate is not None:
        notes.append(f"certificate (BDMC): {gaps.certificate}")
    if not gaps.local_converged:
        notes.append(f"the search for q* had not converged after {gaps.local_steps} steps")
    title = f"Gaps over {len(gaps.elbo)} rows, log p(x) by {gaps.method}"
    return [Table(title, ("", "nats per row"), rows, notes)]


@tables_of.register
def _(found: EvidenceTable) -> list[Table]:
    num_rows = len(next(iter(found.estimates.values())))
    rows = []
    for name, estimate in found.estimates.items():
        mean = estimate.mean()
        noise = float(estimate.std_error.square().sum().sqrt()) / num_rows
        mark = "lower bound" if name in LOWER_BOUNDS else ""
        mark = "best lower bound in mean" if name == found.best else mark
        rows.append((
            name, f"{float(mean.value):.3f}", f"{float(mean.std_error):.3f}", f"{noise:.3f}",
            f"{found.seconds[name]:.1f}", mark,
        ))  # fmt: skip
    heads = ("method", "value", "standard error", "of it Monte Carlo", "seconds", "")
    notes = [f"search for q*: {found.local_seconds:.1f} s"] if found.local_seconds else []
    if found.certificate is not None:
        notes.append(f"certificate (BDMC): {found.certificate}")
    title = f"log p(x), nats per row, mean over {num_rows} rows"
    return [Table(title, heads, rows, notes)]


@tables_of.register
def _(bench: EstimatorBench) -> list[Table]:
    rows = [
        (
            *(row.objective, row.group, row.target),
            *(f"{n:.3g}" for n in (row.bias, row.bias_floor, row.variance, row.snr)),
            f"{row.milliseconds:.2f}",
        )
        for row in bench.rows
    ]
    title = (
        f"Gradients on {bench.num_rows} rows, {bench.num_particles} particles, "
        f"{bench.num_repeats} repeats"
    )
    heads = ("objective", "parameters", "target", "bias", "by noise", "variance", "SNR", "ms")
    notes = (
        "bias: |mean − reference| / |reference|, beside what noise by itself would show",
        "target: the bound that the reference is the gradient of; others miss it by design",
        "SNR: |mean|, without what noise by itself gives, / standard deviation",
    )
    return [Table(title, heads, rows, notes)]


@tables_of.register
def _(found: Diagnosis) -> list[Table]:
    counts = Counter(f.verdict for f in found.findings)
    summary = ", ".join(f"{counts[v]} {v}" for v in ("fail", "warn", "pass") if counts[v])
    note = f"{summary}; lines without a verdict inform; ± one standard error"
    table = _findings_table(TITLE, found.findings, (note,))
    return [table, *([] if found.by_row is None else tables_of(found.by_row))]


def _findings_table(title: str, findings: Sequence[Finding], notes: Sequence[str] = ()) -> Table:
    heads = ("diagnostic", "value", "threshold", "verdict", "what to try next")
    rows = []
    for f in findings:
        verdict = "" if f.verdict == "none" else f.verdict
        rows.append((f.name, with_error(f.value, f.std_error), f.threshold, verdict, f.advice))
    return Table(title, heads, rows, notes)


@tables_of.register
def _(found: ByRow) -> list[Table]:
    heads = ["row", "k-hat", "gap, at least", "reconstruction error"]
    rows = []
    for row, line in found.to_pandas().nlargest(NUM_NAMED, "gap").iterrows():
        cells = [
            str(row),
            f"{line['khat']:.2f}{'' if line['trusted'] else ' !'}",
            f"{line['gap']:.2f} ± {line['gap_std_error']:.2f}",
            f"{line['reconstruction_error']:.2f}",
        ]
        if found.mean_error:
            width = "wide" if line["scale"] > 1 else "narrow"
            cells += [
                f"{line['most_shifted']}: {line['mean_error']:+.2f} sd",
                f"{line['most_misscaled']}: x{line['scale']:.2f}, too {width}",
            ]
        rows.append(cells)
    heads += ["most shifted", "most misscaled"] if found.mean_error else []
    return [Table("Rows where the guide loses most", heads, rows, ("nats; ± one standard error",))]
