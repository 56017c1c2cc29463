r"""The guide league table: one story, several guides, and what each loses where."""

__all__ = ["League", "LeagueRow", "compare"]

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ppvae.data import Rows, as_rows
from ppvae.diagnostics.khat import khat_threshold
from ppvae.estimate import Estimate
from ppvae.evidence import Effort
from ppvae.fit import History, check_options, fit
from ppvae.gaps import NUM_SIMULATED, Gaps, certify, check_request, evidence_methods, gaps
from ppvae.story import TensorDict, check_data
from ppvae.weights import batch_for

DECODERS = {
    "shared": "one trained story, every guide fitted to it: isolates the guide",
    "own": "each guide trains a story of its own: shows the story adapting to the guide",
}


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
            name: f"annealing certified to {g.certificate.gap.mean()} nats (BDMC, {len(g.certificate.lower)} rows)"
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

    def __rich__(self) -> Table:
        table = Table(
            title=f"Guides on {self.num_rows} rows, {self.decoder} story, nats per row",
            caption="\n".join(
                [
                    f"± one standard error; share of rows with k-hat > {self.khat_threshold:.2f}",
                    *self.certificates,
                ]
            ),
        )
        table.add_column("guide")
        heads = ("ELBO", "log p̂(x)", "by", "approximation gap", "amortization gap", "inference gap")
        for head in (*heads, "k-hat share", "seconds"):
            table.add_column(head, justify="right")
        for r in self.rows:
            gap_cells = (r.approximation_gap, r.amortization_gap, r.inference_gap)
            cells = (str(r.elbo), str(r.log_evidence), r.evidence_method, *map(str, gap_cells))
            table.add_row(r.name, *cells, f"{r.khat_share:.0%}", f"{r.seconds:.1f}")
        return table

    def __str__(self) -> str:
        console = Console(width=150, record=True, file=None, quiet=False)
        with console.capture() as captured:
            console.print(self)
        return captured.get()


def compare(
    story: nn.Module,
    guides: Mapping[str, nn.Module],
    data: Any,
    *,
    val: Any = None,
    test: Any = None,
    decoder: str = "shared",
    epochs: int = 100,
    batch_size: int = 100,
    lr: float = 1e-3,
    objective: str = "trace_elbo",
    rows: int = 100,
    evidence: str = "auto",
    num_particles: int = 1000,
    seed: int = 0,
    device: str = "auto",
    patience: int | None = None,
    progress: bool = True,
) -> League:
    """Train and measure several guides on the same story and the same rows.

    The modules passed in stay as they are; the trained ones are in the result.

    Arguments:
        story: The story.
        guides: Name -> guide.
        data: Training rows, anything that `ppvae.data.as_rows` takes.
        val: Validation rows for early stopping, likewise.
        test: Rows to measure on; None measures on training rows.
        decoder: `shared`: the story is trained with the first guide and frozen, then every guide is fitted to it;
            log p(x) is the best bound that any guide gave. `own`: each guide trains a copy of the story.
        epochs: Passes over the rows of each training.
        batch_size: Rows a step.
        lr: Adam's step size.
        objective: A key of `ppvae.objectives.OBJECTIVES`.
        rows: Rows to measure on, the first so many of `test`.
        evidence: How log p(x) is found, see `gaps`.
        num_particles: Particles of importance sampling and k-hat.
        seed: Seed of everything.
        device: As in `fit`.
        patience: As in `fit`.
        progress: Show progress bars on a terminal.

    Returns:
        The league.

    Raises:
        ValueError: If there is no guide, an option is unknown, or story, guides and data do not fit.
    """
    check_options(
        objective=objective, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, patience=patience,
        val=val, device=device,
    )  # fmt: skip
    check_request(story, evidence, num_particles)
    if not guides:
        raise ValueError("expected at least one guide, got none")
    if decoder not in DECODERS:
        raise ValueError(f"expected a decoder among {', '.join(DECODERS)}; got '{decoder}'")
    if rows < 1:
        raise ValueError(f"expected at least one row to measure on, got rows={rows}")
    train = as_rows(data)
    measured = train if test is None else as_rows(test)
    measured = measured.head(min(rows, len(measured)))
    check_data(story, batch_for(story, train))
    check_data(story, batch_for(story, measured))
    training: dict[str, Any] = {
        "val": val, "objective": objective, "epochs": epochs, "batch_size": batch_size, "lr": lr,
        "seed": seed, "device": device, "patience": patience, "progress": progress,
    }  # fmt: skip
    trained = _train_all(story, guides, train, decoder, training)
    measure: dict[str, Any] = {
        "evidence": evidence, "num_particles": num_particles, "seed": seed, "progress": progress,
    }  # fmt: skip
    if (
        decoder == "shared"
    ):  # one story needs one certificate, for the guide whose evidence is taken
        measure["num_simulated"] = 0
    found = {name: gaps(s, g, measured, **measure) for name, (s, g, _) in trained.items()}
    if decoder == "shared":
        effort = Effort(num_particles, seed=seed)
        certify_with = effort if "ais" in evidence_methods(story, evidence) else None
        found = _share_evidence(found, trained, batch_for(story, measured), certify_with)
    keep = {k: v for k, v in training.items() if k not in ("val", "progress")}
    return League(
        gaps=found,
        histories={n: h for n, (_, _, h) in trained.items()},
        stories={n: s for n, (s, _, _) in trained.items()},
        guides={n: g for n, (_, g, _) in trained.items()},
        decoder=decoder,
        num_particles=num_particles,
        settings=keep | {"data": train.name, "rows": len(measured), "evidence": evidence},
    )


def _train_all(
    story: nn.Module,
    guides: Mapping[str, nn.Module],
    data: Rows,
    decoder: str,
    training: dict[str, Any],
) -> dict[str, tuple[nn.Module, nn.Module, History]]:
    """Train copies of story and guides; the parts of the result are (story, guide, history)."""
    if decoder == "own":
        trained = {}
        for name, guide in guides.items():
            own_story, own_guide = deepcopy((story, guide))  # together: they may share modules
            trained[name] = (own_story, own_guide, fit(own_story, own_guide, data, **training))
        return trained
    shared, first = deepcopy((story, next(iter(guides.values()))))
    fit(shared, first, data, **training)
    shared.requires_grad_(False)
    trained = {}
    parts = dict(zip(map(id, story.modules()), shared.modules(), strict=True))
    for name, guide in guides.items():
        fitted = deepcopy(guide, dict(parts))  # what it shares with the story, it goes on sharing
        trained[name] = (shared, fitted, fit(shared, fitted, data, **training))
    return trained


def _share_evidence(
    found: dict[str, Gaps],
    trained: dict[str, tuple[nn.Module, nn.Module, History]],
    batch: TensorDict,
    effort: Effort | None,
) -> dict[str, Gaps]:
    """One story has one log p(x): the best lower bound in mean, whichever guide it came from."""
    best = max(found, key=lambda n: float(found[n].log_evidence.value.mean()))
    story, guide, _ = trained[best]
    certificate = None if effort is None else certify(story, guide, batch, effort, NUM_SIMULATED)
    method = found[best].method
    shared = {
        "log_evidence": found[best].log_evidence,
        "method": method if method == "exact" else f"{method} from {best}",
        "certificate": certificate,
    }
    return {n: replace(g, **shared) for n, g in found.items()}
