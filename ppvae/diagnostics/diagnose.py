r"""All diagnostics of one story and guide: a table of verdicts, and a page of figures."""

__all__ = ["Diagnosis", "diagnose"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ppvae.diagnostics.collapse import ActiveUnits, active_units
from ppvae.diagnostics.coverage import Coverage, coverage
from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.khat import effective_sample_size, khat, khat_threshold
from ppvae.diagnostics.kl import KLBySite, kl_by_site
from ppvae.diagnostics.page import draw_page
from ppvae.diagnostics.predictive import PredictiveCheck, posterior_predictive_check
from ppvae.diagnostics.sbc import SBC, sbc
from ppvae.diagnostics.surgery import Surgery, mutual_information
from ppvae.diagnostics.tarp import tarp
from ppvae.weights import batch_for, check_pair, log_weights

T = TypeVar("T")
GOOD_SHARE, BAD_SHARE = 0.05, 0.2
SURGERY_ROWS, SURGERY_PARTICLES = 300, 2
UNKNOWN = float("nan")
ORDER: dict[Verdict, int] = {"fail": 0, "warn": 1, "pass": 2, "none": 3}


@dataclass(frozen=True)
class Weights:
    """k-hat and what else the importance weights of each row tell, `(B,)`.

    Arguments:
        khat: Pareto k-hat, dimensionless.
        ess: Effective sample size, in particles.
        log_evidence: log p(x) by importance sampling, a lower bound in mean, in nats.
        num_particles: Particles behind each.
    """

    khat: Tensor
    ess: Tensor
    log_evidence: Tensor
    num_particles: int

    @property
    def findings(self) -> tuple[Finding, Finding]:
        """Share of rows not to be trusted, and the effective share of the particles."""
        threshold = khat_threshold(self.num_particles)
        share = float((self.khat > threshold).double().mean())
        error = math.sqrt(share * (1 - share) / len(self.khat))
        verdict: Verdict = "fail" if share > BAD_SHARE else "warn" if share > GOOD_SHARE else "pass"
        advice = "the guide's tails are too thin on these rows: try a larger family, or guide.local for them"
        ess = (self.ess.double() / self.num_particles).median()
        return (
            Finding(
                f"rows with k-hat > {threshold:.2f}, share", share, error,
                f"<= {GOOD_SHARE}", verdict, "" if verdict == "pass" else advice,
            ),
            Finding("effective share of particles, median row", float(ess), UNKNOWN, "none; 1 is best", "none"),
        )  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """What each diagnostic found; a part is None where it could not be measured, and `reasons` says why.

    Arguments:
        weights: k-hat, row by row.
        sbc: Ranks of each latent number.
        coverage: Coverage of the highest-density regions.
        tarp: Coverage by distances to random points.
        units: Activity of each latent number.
        kl: Cost of each latent site, in nats.
        surgery: Information about the row, and the aggregate posterior's distance from the prior.
        predictive: Statistics of the data among replicates.
        reasons: Diagnostic -> why it could not be measured.
    """

    weights: Weights | None
    sbc: SBC | None
    coverage: Coverage | None
    tarp: Coverage | None
    units: ActiveUnits | None
    kl: KLBySite | None
    surgery: Surgery | None
    predictive: PredictiveCheck | None
    reasons: dict[str, str]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The table, line by line."""
        lines: list[Finding] = []
        if self.weights is not None:
            lines += self.weights.findings
        lines += [part.finding for part in (self.sbc, self.coverage, self.tarp, self.units) if part]
        if self.surgery is not None:
            lines += self.surgery.findings
        if self.kl is not None:
            for name, cost in self.kl.sites.items():
                mean = cost.mean()
                value, error = float(mean.value), float(mean.std_error)
                lines.append(Finding(f"KL of site {name}, nats", value, error, "none", "none"))
        if self.predictive is not None:
            lines += self.predictive.findings
        for name, reason in self.reasons.items():
            lines.append(Finding(name, UNKNOWN, UNKNOWN, "not measured", "none", reason))
        return tuple(lines)

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        return min((f.verdict for f in self.findings), key=ORDER.__getitem__)

    def to_pandas(self) -> pd.DataFrame:
        """One line a finding: name, value, std_error, threshold, verdict, advice."""
        return pd.DataFrame([vars(f) for f in self.findings]).set_index("name")

    def figure(self) -> Figure:
        """One page: failing rows, calibration, latent numbers in use, predictive checks."""
        weights = None
        if self.weights is not None:
            threshold = khat_threshold(self.weights.num_particles)
            weights = (self.weights.khat, self.weights.log_evidence, threshold)
        return draw_page(weights, self.sbc, self.coverage, self.tarp, self.units, self.predictive)

    def __rich__(self) -> Table:
        table = Table(
            title="Diagnosis: is the guide the story's posterior?", caption="± one standard error"
        )
        for head in ("diagnostic", "value", "threshold", "verdict", "what to try next"):
            table.add_column(head, justify="right" if head == "value" else "left")
        colours = {"pass": "green", "warn": "yellow", "fail": "bold red", "none": "dim"}
        for f in self.findings:
            value = "" if math.isnan(f.value) else f"{f.value:.3g}"
            error = "" if math.isnan(f.std_error) else f" ± {f.std_error:.2g}"
            verdict = f"[{colours[f.verdict]}]{f.verdict}[/]"
            table.add_row(f.name, value + error, f.threshold, verdict, f.advice.replace("[", r"\["))
        return table

    def __str__(self) -> str:
        console = Console(width=160, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get()


def diagnose(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    num_particles: int = 1000,
    num_simulations: int = 1000,
    num_replicates: int = 200,
    seed: int = 0,
) -> Diagnosis:
    """Run every diagnostic that needs no reference chains, and say what to try next.

    Arguments:
        story: The story, trained.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes; a few hundred tell most.
        num_particles: Particles of each row behind k-hat.
        num_simulations: Rows simulated for each calibration diagnostic.
        num_replicates: Data sets of the predictive check.
        seed: Seed of everything.

    Returns:
        The findings, printable as a table. A diagnostic that does not suit the story (global or discrete sites,
        covariates) or the guide (local) is reported as not measured, with the reason.

    Raises:
        ValueError: If the data or the guide do not fit the story.
    """
    batch = batch_for(story, data)
    check_pair(story, guide, batch)
    reasons: dict[str, str] = {}

    def measured(name: str, run: Callable[[], T]) -> T | None:
        try:
            return run()
        except ValueError as reason:
            reasons[name] = str(reason)
            return None

    size: dict[str, Any] = {"num_simulations": num_simulations, "seed": seed}
    few = {k: v[:SURGERY_ROWS] for k, v in batch.items()}
    return Diagnosis(
        weights=measured("k-hat", lambda: _weights(story, guide, batch, num_particles, seed)),
        sbc=measured("SBC", lambda: sbc(story, guide, batch, **size)),
        coverage=measured("expected coverage", lambda: coverage(story, guide, batch, **size)),
        tarp=measured("TARP", lambda: tarp(story, guide, batch, **size)),
        units=measured("active units", lambda: active_units(story, guide, batch, seed=seed)),
        kl=measured("KL by site", lambda: kl_by_site(story, guide, batch, seed=seed)),
        surgery=measured(
            "I(x; z)",
            lambda: mutual_information(
                story, guide, few, num_particles=SURGERY_PARTICLES, seed=seed
            ),
        ),
        predictive=measured(
            "posterior predictive",
            lambda: posterior_predictive_check(
                story, guide, batch, num_replicates=num_replicates, seed=seed
            ),
        ),
        reasons=reasons,
    )


def _weights(
    story: nn.Module, guide: nn.Module, batch: dict[str, Tensor], num_particles: int, seed: int
) -> Weights:
    log_w = log_weights(story, guide, batch, num_particles, seed=seed)
    log_evidence = log_w.logsumexp(0) - math.log(num_particles)
    return Weights(khat(log_w), effective_sample_size(log_w), log_evidence, num_particles)
