r"""The league table: what each of several guides loses on the same rows."""

__all__ = ["League", "LeagueRow"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ppvae.estimate import Estimate
from ppvae.gaps import Gaps
from ppvae.inference.khat import khat_threshold
from ppvae.result import Result
from ppvae.training import History

if TYPE_CHECKING:
    import pandas as pd


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
class League(Result):
    """The comparison of guides on the same rows.

    Arguments:
        gaps: Guide -> its gaps per row.
        histories: Guide -> its training.
        stories: Guide -> the trained story that it was measured on.
        guides: Guide -> the trained guide.
        decoder: `shared` or `own`.
        num_particles: Particles behind each k-hat.
        settings: What was asked for, by name; those of measuring as `evidence.name`.
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
        """Against the first guide, paired over rows: (name, ELBO difference, inference-gap
        difference), in nats.
        """
        (_, first), *others = self.gaps.items()
        return [
            (name, (g.elbo - first.elbo).mean(), (g.inference_gap - first.inference_gap).mean())
            for name, g in others
        ]

    def to_pandas(self) -> "pd.DataFrame":
        """One line a guide; standard errors in columns that end in `_std_error`."""
        import pandas as pd

        lines = []
        for row in self.rows:
            line: dict[str, Any] = {"guide": row.name, "evidence_method": row.evidence_method}
            for key, value in vars(row).items():
                if isinstance(value, Estimate):
                    line[key] = float(value.value)
                    line[f"{key}_std_error"] = float(value.std_error)
            lines.append(line | {"khat_share": row.khat_share, "seconds": row.seconds})
        return pd.DataFrame(lines).set_index("guide")
