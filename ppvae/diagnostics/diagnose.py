r"""All diagnostics of one story and guide, and their verdicts."""

__all__ = ["Diagnosis", "diagnose"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from ppvae.diagnostics.active_units import ActiveUnits, active_units
from ppvae.diagnostics.by_row import ByRow, by_row
from ppvae.diagnostics.coverage import Coverage, coverage
from ppvae.diagnostics.distance import Distance, distance_to_reference
from ppvae.diagnostics.elbo_decomposition import ELBODecomposition, mutual_information
from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.kl_by_site import KLBySite, kl_by_site
from ppvae.diagnostics.loo import LeaveOneOut, loo
from ppvae.diagnostics.predictive_checks import (
    PredictiveCheck,
    Statistic,
    posterior_predictive_check,
    prior_predictive_check,
)
from ppvae.diagnostics.reference import Reference, reference_posterior
from ppvae.diagnostics.sbc import SBC, sbc
from ppvae.diagnostics.tarp import tarp
from ppvae.problem import Problem
from ppvae.result import Result

if TYPE_CHECKING:
    import pandas as pd

TITLE = "Diagnosis: is the guide the story's posterior?"
ORDER: dict[Verdict, int] = {"fail": 0, "warn": 1, "pass": 2, "none": 3}
# What each part is called where it was not measured, in the order of the table.
PARTS = {
    "by_row": "k-hat",
    "reference": "reference chains",
    "distance": "distance to the reference",
    "loo": "leave-one-out",
    "sbc": "SBC",
    "coverage": "expected coverage",
    "tarp": "TARP",
    "active_units": "active units",
    "elbo_decomposition": "I(x; z)",
    "kl_by_site": "KL by site",
    "posterior_predictive": "posterior predictive",
    "prior_predictive": "prior predictive",
}


@dataclass(frozen=True)
class Diagnosis(Result):
    """What each diagnostic found; a part is None where it was not measured, and `reasons` says why.

    Arguments:
        by_row: k-hat, loss and direction, row by row.
        reference: Chains of the posterior of a few rows.
        distance: How far the guide lies from them.
        loo: Leave-one-out density of each row, where rows depend on each other through global
            sites.
        sbc: Ranks of each latent number.
        coverage: Coverage of the highest-density regions.
        tarp: Coverage by distances to random points.
        active_units: Activity of each latent number.
        elbo_decomposition: Information about the row, and the aggregate posterior's distance from
            the prior.
        kl_by_site: Cost of each latent site, in nats.
        posterior_predictive: Statistics of the data among replicates of the posterior.
        prior_predictive: The same among rows that the story generates.
        reasons: Diagnostic -> why it was not measured.
    """

    by_row: ByRow | None
    reference: Reference | None
    distance: Distance | None
    loo: LeaveOneOut | None
    sbc: SBC | None
    coverage: Coverage | None
    tarp: Coverage | None
    active_units: ActiveUnits | None
    elbo_decomposition: ELBODecomposition | None
    kl_by_site: KLBySite | None
    posterior_predictive: PredictiveCheck | None
    prior_predictive: PredictiveCheck | None
    reasons: dict[str, str]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The table, line by line."""
        measured = [part for part in (getattr(self, name) for name in PARTS) if part is not None]
        unknown = float("nan")
        return (
            *(finding for part in measured for finding in part.findings),
            *(
                Finding(name, unknown, unknown, "not measured", "none", reason)
                for name, reason in self.reasons.items()
            ),
        )

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
        reference_rows: The first so many rows are held against reference chains, seconds each; 0
            for none.
        statistics: As in `posterior_predictive_check`.
        seed: Seed of everything.

    Returns:
        The findings, printable as a table. A diagnostic that does not suit the story (global or
        discrete sites, covariates) or the guide (local) is reported as not measured, with the
        reason. Leave-one-out is measured only where rows depend on each other through global sites;
        elsewhere it is log p(x).

    Raises:
        ValueError: If the data or the guide do not fit the story.
    """
    problem = Problem.of(story, guide, data)
    parts: dict[str, Any] = dict.fromkeys(PARTS)
    reasons: dict[str, str] = {}

    def measure(part: str, run: Callable[..., Any], *given: Any, **options: Any) -> None:
        try:
            parts[part] = run(*given, **options, seed=seed)
        except ValueError as reason:
            reasons[PARTS[part]] = str(reason)

    if reference_rows:
        rows = range(min(reference_rows, problem.num_rows))
        measure("reference", reference_posterior, problem, rows=rows)
    if parts["reference"] is not None:
        measure("distance", distance_to_reference, guide, parts["reference"])
    if problem.sites.global_latent:
        measure("loo", loo, problem, num_particles=num_particles)
    measure("by_row", by_row, problem, num_particles=num_particles)
    measure("sbc", sbc, problem, num_simulations=num_simulations)
    measure("coverage", coverage, problem, num_simulations=num_simulations)
    measure("tarp", tarp, problem, num_simulations=num_simulations)
    measure("active_units", active_units, problem)
    measure("elbo_decomposition", mutual_information, problem, num_particles=2)
    measure("kl_by_site", kl_by_site, problem)
    replicates: dict[str, Any] = {"num_replicates": num_replicates, "statistics": statistics}
    measure("posterior_predictive", posterior_predictive_check, problem, **replicates)
    measure("prior_predictive", prior_predictive_check, problem, **replicates)
    return Diagnosis(**parts, reasons=reasons)
