r"""The figure of each result: which of its numbers `ppvae.plots` draws, under which labels."""

__all__ = ["draw", "elbo_curves"]

from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Size, Tensor

from ppvae.diagnostics.active_units import ActiveUnits
from ppvae.diagnostics.by_row import ByRow
from ppvae.diagnostics.coverage import Coverage
from ppvae.diagnostics.diagnose import TITLE, Diagnosis
from ppvae.diagnostics.distance import GOOD_ACCURACY, Distance
from ppvae.diagnostics.finding import number_names
from ppvae.diagnostics.kl_by_site import KLBySite
from ppvae.diagnostics.predictive_checks import EXTREME, PredictiveCheck
from ppvae.diagnostics.sbc import SBC
from ppvae.estimate import Estimate
from ppvae.gaps import Gaps
from ppvae.league import League
from ppvae.objectives.bench import EstimatorBench
from ppvae.training import History
from ppvae.viz.plots import (
    calibration_curves,
    direction_map,
    estimator_dots,
    gap_bars,
    khat_map,
    tail_dots,
    training_curves,
    unit_bars,
)

COLUMNS = 3
PANEL_SIZE = (5.4, 4.2)  # inches


@singledispatch
def draw(result: Any, axes: Axes | None = None, **options: Any) -> Figure:
    """Draw a result.

    Arguments:
        result: The result.
        axes: Where to draw; a new figure if None.
        options: `against` and `label` of `ByRow` and `Diagnosis`: what to hold k-hat against, a
            label (integers) or a number of each row, `(B,)`, and its name with its unit; by default
            the reconstruction error. `compact` of `League`: without the numbers beside the bars.

    Raises:
        TypeError: If this kind of result has no figure.
    """
    raise TypeError(f"expected a result that has a figure, got {type(result).__name__}")


@draw.register
def _(league: League, axes: None = None, compact: bool = False) -> Figure:
    def pairs(name: str) -> list[tuple[float, float]]:
        estimates: list[Estimate] = [getattr(row, name) for row in league.rows]
        return [(float(e.value), float(e.std_error)) for e in estimates]

    names = [row.name for row in league.rows]
    return gap_bars(names, pairs("approximation_gap"), pairs("amortization_gap"), compact=compact)


@draw.register
def _(history: History, axes: None = None) -> Figure:
    return training_curves({"ELBO": elbo_curves(history)})


def elbo_curves(history: History) -> tuple[list[float], list[float] | None]:
    """ELBO of training and of validation, if there was any, by epoch."""
    validation = history.column("val_elbo")
    return history.column("elbo"), None if None in validation else validation


@draw.register
def _(gaps: Gaps, axes: Axes | None = None) -> Figure:
    return khat_map(
        gaps.khat, gaps.inference_gap.value, gaps.khat_threshold, label="inference gap (nats)",
        title="How much rows lose", axes=axes,
    )  # fmt: skip


@draw.register
def _(bench: EstimatorBench, axes: None = None) -> Figure:
    snr: dict[str, dict[str, float]] = {}
    for row in bench.rows:
        snr.setdefault(row.objective, {})[row.group] = row.snr
    return estimator_dots(snr, {row.objective: row.milliseconds for row in bench.rows})


@draw.register
def _(
    found: ByRow, axes: Axes | None = None, against: Tensor | None = None, label: str | None = None
) -> Figure:
    if against is None:
        against, label = found.reconstruction_error.value, "reconstruction error (nats)"
    title = f"Which rows fail, by {(label or '').partition(' (')[0]}"
    return khat_map(found.khat, against, found.threshold, label=label or "", title=title, axes=axes)


@draw.register
def _(found: Distance, axes: Axes | None = None) -> Figure:
    return direction_map(
        found.log_scale_error.mean(-1).exp(),
        found.mean_error.square().mean(-1).sqrt(),
        found.accuracy.value > GOOD_ACCURACY,
        title="Off the reference chains",
        unit="sd of the reference",
        words=("alike", "distinguished"),
        axes=axes,
    )


@draw.register
def _(found: SBC, axes: Axes | None = None) -> Figure:
    ranks = found.sbc_ranks
    curves = dict(zip(ranks.names, ranks.ecdf, strict=True))
    return calibration_curves(
        ranks.levels, curves, ranks.band(), title="SBC: ranks of the truth", level_label="rank",
        axes=axes,
    )  # fmt: skip


@draw.register
def _(found: Coverage, axes: Axes | None = None) -> Figure:
    title = "Expected coverage (below 0: too sure)"
    if found.method == "tarp":
        title = "TARP coverage: joint calibration"
    return calibration_curves(
        found.levels, {"coverage": found.coverage}, found.band(), title=title,
        level_label="credibility", axes=axes,
    )  # fmt: skip


@draw.register
def _(found: ActiveUnits, axes: Axes | None = None) -> Figure:
    label = "variance of posterior mean (site's unit, squared)"
    return _unit_bars(found.variance, found.threshold, label=label, axes=axes)


@draw.register
def _(found: KLBySite, axes: Axes | None = None) -> Figure:
    costs = {name: found.numbers.get(name, cost.mean()) for name, cost in found.sites.items()}
    part = "number" if found.numbers else "site"
    return _unit_bars(
        costs, None, label="KL(q(z | x) || p(z)), mean row (nats)",
        title=f"What each latent {part} costs", axes=axes,
    )  # fmt: skip


def _unit_bars(found: Mapping[str, Estimate], threshold: float | None, **options: Any) -> Figure:
    """A bar for each number of each site."""
    shapes: dict[str, Size] = {name: v.value.shape for name, v in found.items()}
    values = torch.cat([v.value.flatten() for v in found.values()])
    errors = torch.cat([v.std_error.flatten() for v in found.values()])
    return unit_bars(number_names(shapes), values, errors, threshold, **options)


@draw.register
def _(check: PredictiveCheck, axes: Axes | None = None) -> Figure:
    title = f"{check.kind.capitalize()} predictive checks"
    return tail_dots(check.worst, EXTREME, title=title, axes=axes)


@draw.register
def _(
    found: Diagnosis, axes: None = None, against: Tensor | None = None, label: str | None = None
) -> Figure:
    """One page: which rows fail and how; calibration; what is in use; the story itself."""
    panels: list[Callable[[Axes], object]] = []
    if (rows := found.by_row) is not None:
        panels = [
            lambda axes: draw(rows, axes, against=against, label=label),
            lambda axes: khat_map(
                rows.khat, rows.gap.value, rows.threshold, label="inference gap, at least (nats)",
                title="How much rows lose", axes=axes,
            ),
        ]  # fmt: skip
        if rows.mean_error:
            failing = rows.khat > rows.threshold
            panels.append(lambda axes: direction_map(rows.scale, rows.shift, failing, axes=axes))
    calibration = (found.distance, found.sbc, found.coverage, found.tarp)
    parts = (*calibration, found.active_units, found.kl_by_site)
    panels += [part.plot for part in parts if part is not None]
    checks = (found.posterior_predictive, found.prior_predictive)
    dots = {f"{c.kind}, {name}": worst for c in checks if c for name, worst in c.worst.items()}
    if dots:
        panels.append(lambda axes: tail_dots(dots, EXTREME, axes=axes))
    if not panels:
        raise ValueError("expected at least one diagnostic that was measured, got none")
    num_rows = -(-len(panels) // COLUMNS)
    size = (COLUMNS * PANEL_SIZE[0], num_rows * PANEL_SIZE[1] + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(TITLE)
    grid = figure.subplots(num_rows, COLUMNS, squeeze=False).flatten()
    for panel, axes_of_panel in zip(panels, grid, strict=False):
        panel(axes_of_panel)
    for unused in grid[len(panels) :]:
        unused.set_axis_off()
    return figure
