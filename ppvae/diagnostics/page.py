r"""The figure page of a diagnosis: the plain plots of `ppvae.plots`, side by side."""

__all__ = ["draw_page"]

from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ppvae.diagnostics.collapse import ActiveUnits
from ppvae.diagnostics.coverage import Coverage
from ppvae.diagnostics.predictive import EXTREME, PredictiveCheck
from ppvae.diagnostics.sbc import SBC
from ppvae.plots import calibration_curves, khat_map, tail_dots, unit_bars

COLUMNS = 3
PANEL = (5.2, 4.0)  # inches


def draw_page(
    weights: tuple[Tensor, Tensor, float] | None,
    sbc: SBC | None,
    coverage: Coverage | None,
    tarp: Coverage | None,
    units: ActiveUnits | None,
    predictive: PredictiveCheck | None,
) -> Figure:
    """One panel for each part that was measured.

    Arguments:
        weights: k-hat `(B,)`, log evidence `(B,)` in nats, and the threshold of k-hat.
        sbc: Ranks.
        coverage: Coverage of the highest-density regions.
        tarp: Coverage by distances to random points.
        units: Activity of the latent numbers.
        predictive: Statistics among replicates.

    Raises:
        ValueError: If nothing was measured.
    """
    panels: list[Callable[[Axes], object]] = []
    if weights is not None:
        khat, log_evidence, threshold = weights
        label = "log p(x), importance sampling (nats)"
        panels.append(lambda a: khat_map(khat, log_evidence, threshold, label=label, axes=a))
    if sbc is not None:
        panels.append(lambda a: _ranks(sbc, a))
    panels += [_coverage(c) for c in (coverage, tarp) if c is not None]
    if units is not None:
        panels.append(lambda a: _units(units, a))
    if predictive is not None:
        panels.append(lambda a: _tails(predictive, a))
    if not panels:
        raise ValueError("expected at least one diagnostic that was measured, got none")
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * PANEL[0], rows * PANEL[1]), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for draw, axes in zip(panels, grid, strict=False):
        draw(axes)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _ranks(found: SBC, axes: Axes) -> None:
    curves = dict(zip(found.ranks.names, found.ranks.ecdf, strict=True))
    title, band = "SBC: ranks of the truth", found.ranks.band()
    calibration_curves(found.ranks.levels, curves, band, title=title, level_label="rank", axes=axes)


def _coverage(found: Coverage) -> Callable[[Axes], object]:
    title = f"Expected coverage, {found.method}"
    return lambda axes: calibration_curves(
        found.levels, {"coverage": found.coverage}, found.band(), title=title,
        level_label="credibility", axes=axes,
    )  # fmt: skip


def _units(found: ActiveUnits, axes: Axes) -> None:
    names = [f"{k}[{i}]" for k, v in found.variance.items() for i in range(v.value.numel())]
    values = torch.cat([v.value.flatten() for v in found.variance.values()])
    errors = torch.cat([v.std_error.flatten() for v in found.variance.values()])
    label = "variance of the posterior mean (site's unit squared)"
    unit_bars(names, values, errors, found.threshold, label=label, axes=axes)


def _tails(found: PredictiveCheck, axes: Axes) -> None:
    dots = {}
    for name, p in found.tail_probability.items():
        worst = int((p.value - 0.5).abs().argmax())
        dots[name] = (float(p.value.flatten()[worst]), float(p.std_error.flatten()[worst]))
    tail_dots(dots, EXTREME, title=f"{found.kind.capitalize()} predictive checks", axes=axes)
