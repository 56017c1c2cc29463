r"""The plots of the diagnostics draw what they are given, and refuse what does not fit."""

import pytest
import torch

from ppvae.viz.plots import calibration_curves, khat_map, tail_dots, unit_bars


def test_calibration_names_the_worst_curves_and_greys_the_others():
    levels = torch.linspace(0.1, 0.9, 9)
    curves = {f"q{i}": levels + 0.01 * i for i in range(9)}
    figure = calibration_curves(levels, curves, (levels - 0.05, levels + 0.05))
    labels = {t.get_text() for t in figure.axes[0].get_legend().get_texts()}
    assert {"q8", "q5"} <= labels and "q4" not in labels
    with pytest.raises(ValueError, match="at least one curve and a band"):
        calibration_curves(levels, {}, (levels, levels))


def test_the_map_counts_rows_above_the_threshold():
    khat = torch.tensor([0.1, 0.9, torch.inf, -torch.inf])
    figure = khat_map(khat, torch.arange(4.0), 0.7, label="log p(x) (nats)")
    labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert labels[1] == "not trusted (50%)"
    assert figure.axes[0].get_xlabel() == "log p(x) (nats)"
    with pytest.raises(ValueError, match="two numbers for each"):
        khat_map(khat, torch.zeros(3), 0.7, label="")


def test_unit_bars_stand_in_order_and_count_the_idle():
    values = torch.tensor([0.001, 1.0, 0.0])
    figure = unit_bars(["a", "b", "c"], values, torch.zeros(3), 0.01, label="variance")
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["b", "a", "c"]
    assert "idle (2 of 3)" in [t.get_text() for t in axes.get_legend().get_texts()]
    figure.canvas.draw()
    with pytest.raises(ValueError, match="a value and a standard error"):
        unit_bars(["a"], values, torch.zeros(3), 0.01, label="")


def test_tail_dots_have_one_line_a_statistic():
    figure = tail_dots({"mean": (0.5, 0.01), "max": (0.0, 0.01)}, 0.025)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["mean", "max"]
    with pytest.raises(ValueError, match="at least one statistic"):
        tail_dots({}, 0.025)
