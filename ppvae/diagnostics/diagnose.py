r"""All diagnostics of one story and guide: a table of verdicts, and a page of figures."""

__all__ = ["Diagnosis", "diagnose"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from ppvae.data import to_batch
from ppvae.diagnostics.by_row import by_row
from ppvae.diagnostics.collapse import ActiveUnits, active_units
from ppvae.diagnostics.coverage import Coverage, coverage
from ppvae.diagnostics.distance import Distance, distance_to_reference
from ppvae.diagnostics.elbo_decomposition import ELBODecomposition, mutual_information
from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.loo import LeaveOneOut, loo
from ppvae.diagnostics.predictive import (
    PredictiveCheck,
    Statistic,
    posterior_predictive_check,
    prior_predictive_check,
)
from ppvae.diagnostics.reference import Reference, reference_posterior
from ppvae.diagnostics.rows import ByRow
from ppvae.diagnostics.sbc import SBC, sbc
from ppvae.diagnostics.tarp import tarp
from ppvae.inference.kl import KLBySite, kl_by_site
from ppvae.problem.weights import check_pair
from ppvae.result import Result

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
SURGERY_PARTICLES = 2
UNKNOWN = float("nan")
TITLE = "Diagnosis: is the guide the story's posterior?"
ORDER: dict[Verdict, int] = {"fail": 0, "warn": 1, "pass": 2, "none": 3}


@dataclass(frozen=True)
class Diagnosis(Result):
    """What each diagnostic found; a part is None where it was not measured, and `reasons` says why.

    Arguments:
        rows: k-hat, loss and direction, row by row.
        reference: Chains of the posterior of a few rows.
        distance: How far the guide lies from them.
        sbc: Ranks of each latent number.
        coverage: Coverage of the highest-density regions.
        tarp: Coverage by distances to random points.
        units: Activity of each latent number.
        loo: What each row is worth to the others, where they touch through global sites.
        surgery: Information about the row, and the aggregate posterior's distance from the prior.
        kl: Cost of each latent site, in nats.
        posterior: Statistics of the data among replicates of the posterior.
        prior: The same among rows that the story generates.
        reasons: Diagnostic -> why it was not measured.
    """

    rows: ByRow | None
    reference: Reference | None
    distance: Distance | None
    sbc: SBC | None
    coverage: Coverage | None
    tarp: Coverage | None
    units: ActiveUnits | None
    loo: LeaveOneOut | None
    surgery: ELBODecomposition | None
    kl: KLBySite | None
    posterior: PredictiveCheck | None
    prior: PredictiveCheck | None
    reasons: dict[str, str]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The table, line by line."""
        lines: list[Finding] = []
        for part in (
            self.rows, self.reference, self.distance, self.loo, self.sbc, self.coverage, self.tarp, self.units,
            self.surgery, self.kl, self.posterior, self.prior,
        ):  # fmt: skip
            if isinstance(part, Reference | Distance | LeaveOneOut | SBC | ActiveUnits):
                lines.append(part.finding)
            elif part is not None:
                lines += part.findings
        for name, reason in self.reasons.items():
            lines.append(Finding(name, UNKNOWN, UNKNOWN, "not measured", "none", reason))
        return tuple(lines)

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        return min((f.verdict for f in self.findings), key=ORDER.__getitem__)

    def to_pandas(self) -> "pd.DataFrame":
        """One line a finding: name, value, std_error, threshold, verdict, advice."""
        import pandas as pd

        return pd.DataFrame([vars(f) for f in self.findings]).set_index("name")


def diagnose(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    num_particles: int = 1000,
    num_simulations: int = 1000,
    num_replicates: int = 200,
    reference_rows: int = 0,
    statistics: Mapping[str, Statistic] | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Run every diagnostic, and say what to try next.

    Arguments:
        story: The story, trained.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes; a few hundred tell most.
        num_particles: Particles of each row behind k-hat.
        num_simulations: Rows simulated for each calibration diagnostic.
        num_replicates: Data sets of each predictive check.
        reference_rows: The first so many rows are held against reference chains, seconds each; 0 for none.
        statistics: As in `posterior_predictive_check`.
        seed: Seed of everything.

    Returns:
        The findings, printable as a table. A diagnostic that does not suit the story (global or discrete sites,
        covariates) or the guide (local) is reported as not measured, with the reason. Leave-one-out is measured only
        where rows touch through global sites; elsewhere it is log p(x).

    Raises:
        ValueError: If the data or the guide do not fit the story.
    """
    batch = to_batch(story, data)
    sites = check_pair(story, guide, batch)
    reasons: dict[str, str] = {}

    def measured(name: str, run: Callable[..., T], *given: Any, **options: Any) -> T | None:
        try:
            return run(*given, **options, seed=seed)
        except ValueError as reason:
            reasons[name] = str(reason)
            return None

    def distance(reference: Reference, seed: int) -> Distance:
        return distance_to_reference(guide, reference, seed=seed)

    pair = (story, guide, batch)
    size = {"num_simulations": num_simulations}
    check = {"num_replicates": num_replicates, "statistics": statistics}
    few = range(min(reference_rows, len(next(iter(batch.values())))))
    reference, separation = None, None
    if few:
        reference = measured(
            "reference chains", reference_posterior, story, batch, rows=few, guide=guide
        )
    if reference is not None:
        separation = measured("distance to the reference", distance, reference)
    one_out = None
    if sites.global_latent:
        one_out = measured("leave-one-out", loo, *pair, num_particles=num_particles)
    return Diagnosis(
        rows=measured("k-hat", by_row, *pair, num_particles=num_particles),
        reference=reference,
        distance=separation,
        loo=one_out,
        sbc=measured("SBC", sbc, *pair, **size),
        coverage=measured("expected coverage", coverage, *pair, **size),
        tarp=measured("TARP", tarp, *pair, **size),
        units=measured("active units", active_units, *pair),
        surgery=measured("I(x; z)", mutual_information, *pair, num_particles=SURGERY_PARTICLES),
        kl=measured("KL by site", kl_by_site, *pair),
        posterior=measured("posterior predictive", posterior_predictive_check, *pair, **check),
        prior=measured("prior predictive", prior_predictive_check, story, batch, **check),
        reasons=reasons,
    )
