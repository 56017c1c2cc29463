r"""The whole diagnosis: verdicts of right and wrong guides, the table, the figure page, the
command."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diagnostics.wrong import PriorGuide
from exact import ScaledPosterior, linear_gaussian, rows_of
from matplotlib.figure import Figure
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from stories import built

from ppvae.cli import main
from ppvae.diagnostics import (
    Finding,
    by_row,
    diagnose,
    distance_to_reference,
    reference_posterior,
)
from ppvae.problem import Problem
from ppvae.story import check_data

SIZE = {"num_particles": 500, "num_simulations": 500, "num_replicates": 40}


@pytest.fixture(scope="module")
def story():
    return linear_gaussian()


@pytest.fixture(scope="module")
def rows(story):
    return rows_of(story, 150)


@pytest.fixture(scope="module")
def right(story, rows):
    return diagnose(story, ScaledPosterior(story), rows, **SIZE)


def verdicts(found):
    return {f.name: f.verdict for f in found.findings}


def test_the_right_guide_passes_everything(right):
    assert right.verdict == "pass" and not right.reasons
    assert float(right.by_row.ess.min()) == pytest.approx(500)


def test_every_number_that_is_sampled_has_an_error_and_every_failure_an_advice(story, rows):
    found = diagnose(story, ScaledPosterior(story, 0.4), rows, **SIZE)
    assert found.verdict == "fail"
    for line in found.findings:
        assert bool(line.advice) == (line.verdict in ("warn", "fail"))
    seen = verdicts(found)
    assert seen["SBC, p-value of uniform ranks"] == "fail"
    assert seen["expected coverage, less level"] == "fail"
    assert next(v for name, v in seen.items() if "k-hat" in name) == "fail"


def test_a_wide_guide_passes_khat_and_fails_calibration(story, rows):
    seen = verdicts(diagnose(story, ScaledPosterior(story, 1.4), rows, **SIZE))
    assert next(v for name, v in seen.items() if "k-hat" in name) == "pass"
    assert seen["expected coverage, less level"] == "fail"


def test_a_collapsed_guide_fails_activity_and_information(story, rows):
    seen = verdicts(diagnose(story, PriorGuide(story), rows, **SIZE))
    assert seen["active units, share"] == "fail" and seen["I(x; z), nats"] == "fail"


def test_the_table_prints_and_turns_into_pandas(right):
    text, frame = str(right), right.to_pandas()
    assert "SBC" in text and "what to try next" in text
    assert list(frame.columns) == ["value", "std_error", "threshold", "verdict", "advice"]
    assert len(frame) == len(right.findings)


def test_the_page_has_a_panel_for_each_part(right):
    figure = right.plot()
    assert isinstance(figure, Figure)
    assert sum(a.axison for a in figure.axes) == 9
    assert all(a.get_title() and a.get_xlabel() for a in figure.axes if a.axison)
    figure.canvas.draw()


@pytest.mark.parametrize("kind", ["global", "covariate"])
def test_what_cannot_be_measured_is_told_with_its_reason(kind):
    story, guide, batch = built(kind, 30)
    small = {"num_particles": 50, "num_simulations": 20, "num_replicates": 5}
    found = diagnose(story, guide, batch, **small)
    assert "I(x; z)" in found.reasons and found.posterior_predictive is not None
    assert (found.sbc is None) == (kind == "global") == (found.loo is not None)
    assert ("leave-one-out" in str(found)) == (kind == "global")
    line = next(f for f in found.findings if f.name == "I(x; z)")
    assert math.isnan(line.value) and line.verdict == "none" and line.threshold == "not measured"
    found.plot().canvas.draw()


@pytest.mark.parametrize("family", ["structured", "mixture", "nsf", "sylvester", "semi_amortized"])
def test_every_line_is_measured_whatever_the_family(family):
    story, guide, batch = built("hierarchical", 6, family=family)
    small = {"num_particles": 30, "num_simulations": 10, "num_replicates": 3}
    assert not diagnose(story, guide, batch, **small).reasons


def test_rows_are_held_against_their_class_and_the_chains_have_a_panel(story, rows):
    small = {"num_particles": 50, "num_simulations": 20, "num_replicates": 5}
    found = diagnose(story, ScaledPosterior(story), {"x": rows["x"][:30]}, **small)
    reference = reference_posterior(story, rows, rows=range(2), num_warmup=20, num_samples=20)
    isolated = distance_to_reference(
        ScaledPosterior(story), reference, classifier=QuadraticDiscriminantAnalysis()
    )
    figure = replace(found, distance=isolated).plot(against=torch.arange(30) % 3, label="class")
    titles = [a.get_title() for a in figure.axes]
    assert titles[0] == "Which rows fail, by class" and "Off the reference chains" in titles
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0", "1", "2"]


def test_story_guide_and_rows_are_checked_once_for_all_diagnostics(story, rows, monkeypatch):
    checked, check = [], check_data
    monkeypatch.setattr(
        "ppvae.problem.problem.check_data", lambda *args: checked.append(args) or check(*args)
    )
    small = {"num_particles": 50, "num_simulations": 20, "num_replicates": 5}
    found = diagnose(story, ScaledPosterior(story), rows, **small)
    assert len(checked) == 1
    problem = Problem.of(story, ScaledPosterior(story), rows)
    torch.testing.assert_close(by_row(problem, num_particles=50).khat, found.by_row.khat)


def test_bad_data_are_an_error_and_no_reason(story):
    with pytest.raises(ValueError, match="site 'x'"):
        diagnose(story, ScaledPosterior(story), {"x": torch.zeros(4, 3).double()})


def test_a_finding_prints_on_one_line():
    line = str(Finding("x", 1.0, 0.1, "<= 2", "pass", ""))
    assert line == "x: 1.00 ± 0.10 (<= 2): pass"
    assert str(Finding("x", 1.00423, math.nan, "<= 2", "pass")) == "x: 1.004 (<= 2): pass"


def test_the_command_prints_the_table_and_saves_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    numbers = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    np.save(tmp_path / "numbers.npy", numbers)
    typed = ["diagnose", "factor_analysis", "--data", "numbers.npy", "--guide", "full_rank"]
    tiny = ["--epochs", "1", "--rows", "6", "--num-particles", "50", "--num-simulations", "20"]
    quiet = ["--device", "cpu", "--no-progress", "--figure", "page.png"]
    assert main([*typed, *tiny, *quiet]) == 0
    out = capsys.readouterr().out
    assert "k-hat" in out and "lines without a verdict inform" in out
    assert (tmp_path / "page.png").stat().st_size
    assert main([*typed, *tiny, "--against", "class"]) == 2
    assert "expected one number a row" in capsys.readouterr().err
    assert main([*typed, "--figure", "page.txt"]) == 2
    assert "expected --figure to be a .png" in capsys.readouterr().err
