r"""The report of a comparison: one HTML page, and its figures beside it."""

__all__ = ["report"]

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ppvae.compare import League
from ppvae.storage.files import write_bytes
from ppvae.storage.run_folder import versions
from ppvae.viz.report.figures import draw_all
from ppvae.viz.report.html import bullets, details, paragraph, preformatted, section, table, whole
from ppvae.viz.summary import cautions, fault, headline, nats

HEADS = (
    "guide",
    "ELBO",
    "log p̂(x)",
    "by",
    "approximation gap",
    "amortization gap",
    "inference gap",
    "loses most to",
    "k-hat share",
    "seconds",
)


def report(
    league: League, data: Any, *, path: str | os.PathLike[str], title: str, command: str = ""
) -> Path:
    """Write what a comparison found as one self-contained HTML page.

    The page needs no script, no network and no other file. Its figures also go to the folder
    `figures` beside it.

    Arguments:
        league: What `ppvae.compare` gave.
        data: Rows to show and reconstruct, anything that `ppvae.data.as_rows` takes: best those
            measured.
        path: Of the page; parent folders are made.
        title: Its heading.
        command: What was typed to make it, if anything.

    Returns:
        The path.
    """
    file = Path(path).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    page = whole(title, headline(league), _sections(league, data, file.parent, command))
    write_bytes(file, page.encode())
    return file


def _sections(league: League, data: Any, folder: Path, command: str) -> Iterator[str]:
    figures = draw_all(league, data, folder / "figures")
    yield section("What each guide loses", _league_table(league), figures["gaps"])
    if len(league.rows) > 1:
        yield section(f"Differences from {league.rows[0].name}", _differences(league))
    yield section("What to keep in mind", bullets(cautions(league)))
    yield section("Rows to distrust", figures["khat"])
    yield section("TrainConfig", figures["training"], paragraph(_trained(league), "small"))
    yield section("Pictures", figures["samples"], figures["reconstructions"])
    yield section("Settings", details(_settings(league)), preformatted(command) if command else "")


def _league_table(league: League) -> str:
    rows = [
        (
            row.name,
            nats(row.elbo),
            nats(row.log_evidence),
            row.evidence_method,
            nats(row.approximation_gap),
            nats(row.amortization_gap),
            nats(row.inference_gap),
            fault(row),
            f"{row.khat_share:.0%}",
            f"{row.seconds:.1f}",
        )
        for row in league.rows
    ]
    return table(
        HEADS,
        rows,
        f"Means over {league.num_rows} rows, in nats per row, ± one standard error. ELBO and log "
        "p̂(x): higher is better; gaps: lower is better. Approximation gap: what a larger family "
        "would win. Amortization gap: what fitting each row by itself would win. Inference gap: "
        f"their sum. k-hat share: rows with k-hat above {league.khat_threshold:.2f}. Seconds: "
        "training time.",
    )


def _differences(league: League) -> str:
    rows = [(name, nats(elbo), nats(gap)) for name, elbo, gap in league.differences()]
    first = league.rows[0].name
    return table(
        ("guide", "ELBO", "inference gap"),
        rows,
        f"Guide minus {first}, paired over the rows, in nats per row, ± one standard error. Paired "
        "differences are surer than the columns above, because rows that are hard for one guide "
        "are hard for all.",
    )


def _trained(league: League) -> str:
    parts = []
    for name, history in league.histories.items():
        count = len(history.records)
        early = ", stopped early" if history.stopped_early else ""
        parts.append(f"{name}: {count} epochs{early}, weights of epoch {history.best_epoch}")
    shared = (
        " All guides were fitted to one trained story, which stayed fixed."
        if league.decoder == "shared"
        else " Each guide trained a story of its own."
    )
    return "; ".join(parts) + "." + shared


def _settings(league: League) -> list[tuple[str, str]]:
    seconds = sum(history.seconds for history in league.histories.values())
    found = {"decoder": league.decoder, **league.settings}
    pairs = [(name.replace("_", " "), str(value)) for name, value in found.items()]
    pairs.append(("k-hat particles", str(league.num_particles)))
    pairs.append(("training time", f"{seconds:.1f} s"))
    pairs.append(("versions", ", ".join(f"{k} {v}" for k, v in versions().items())))
    pairs.append(("written", datetime.now(UTC).isoformat(sep=" ", timespec="minutes")))
    return pairs
