"""The comparison of gradient estimators: its numbers are what it says they are, and it disturbs
nothing."""

import math

import exact
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import ppvae
from ppvae import objectives
from ppvae.cli import main
from ppvae.objectives.gradients import Gradients, measure_gradients, parameter_groups
from ppvae.story import local_params, seeded_eval
from ppvae.viz.plots import estimator_dots


@pytest.fixture(scope="module")
def pair():
    story = exact.linear_gaussian(4, 2)
    rows = exact.rows_of(story, 20)
    torch.manual_seed(0)
    guide = ppvae.guides.build("mean_field", story, rows, encoder=nn.Identity())
    return story, guide, {"x": (rows["x"] - guide.features.x_loc) / guide.features.x_scale}


@pytest.fixture(scope="module")
def bench(pair):
    story, guide, rows = pair
    named = {
        "plain": objectives.build("score_function", story, guide, rows, baseline="none"),
        "average": "score_function",
        "path": "trace_elbo",
        "analytic": "mean_field_elbo",
        "sleep_log_prob": "wake_sleep",
    }
    return ppvae.estimator_bench(
        story, guide, rows, named, num_particles=1, num_repeats=60, progress=False,
        exact={"elbo": lambda batch: exact.elbo(story, guide, batch)},
    )  # fmt: skip


def test_unbiased_estimators_miss_the_reference_by_noise_alone_and_wake_sleep_by_more(bench):
    for name in ("plain", "average", "path", "analytic"):
        for group in ("story", "heads"):
            row = bench.row(name, group)
            assert row.bias < 2.5 * row.bias_floor, (name, group)
    sleep_log_prob = bench.row("sleep_log_prob", "heads")
    assert sleep_log_prob.bias > 5 * sleep_log_prob.bias_floor
    assert (
        bench.row("sleep_log_prob", "story").bias
        < 2.5 * bench.row("sleep_log_prob", "story").bias_floor
    )


def test_each_step_from_score_function_to_closed_form_takes_out_noise(bench):
    order = ("plain", "average", "path", "analytic")
    variances = [bench.row(name, "heads").variance for name in order]
    assert variances == sorted(variances, reverse=True)
    assert variances[0] > 10 * variances[2]
    ratios = [bench.row(name, "heads").snr for name in order]
    assert ratios[1:] == sorted(ratios[1:])


def test_a_reference_by_sampling_agrees_with_the_closed_form(pair):
    story, guide, rows = pair
    found = ppvae.estimator_bench(
        story, guide, rows, ("stl", "iwae"), num_particles=2, num_repeats=15, progress=False
    )
    assert {(r.objective, r.target) for r in found.rows} == {("stl", "elbo"), ("iwae", "iwelbo")}
    for row in found.rows:
        assert row.bias < 2.5 * row.bias_floor
    assert found.row("stl", "heads").milliseconds > 0


def test_the_table_says_what_was_measured_and_the_figure_draws_it(bench, tmp_path):
    frame = bench.to_pandas()
    assert isinstance(frame, pd.DataFrame) and len(frame) == 5 * 2
    assert frame.loc[("path", "heads"), "snr"] == bench.row("path", "heads").snr
    text = str(bench)
    assert "20 rows, 1 particles, 60 repeats" in text and "analytic" in text
    figure = bench.plot()
    assert isinstance(figure, Figure)
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == ["plain", "average", "path", "analytic", "sleep_log_prob"]
    drawn = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}
    assert drawn["story"] == [bench.row(name, "story").snr for name in labels]
    with pytest.raises(ValueError, match="a ratio and a time for each"):
        estimator_dots({"a": {"story": 1.0}}, {})


def test_it_leaves_parameters_gradients_generators_and_modes_as_they_were(pair):
    story, guide, rows = pair
    story.train()
    guide.eval()
    before = [p.detach().clone() for m in (story, guide) for p in m.parameters()]
    state = torch.get_rng_state()
    options = {"num_particles": 2, "num_repeats": 2, "progress": False}
    ppvae.estimator_bench(story, guide, rows, ["score_function", "dreg"], **options)
    after = [p for m in (story, guide) for p in m.parameters()]
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, after, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert story.training and not guide.training


def test_moments_are_those_of_the_gradients_themselves(pair):
    story, guide, rows = pair
    groups = parameter_groups(story, guide)
    objective = objectives.build("trace_elbo", story, guide, rows)
    with local_params(story, guide), seeded_eval(3, story, guide):
        found = measure_gradients(objective, rows, groups, 5)
    with local_params(story, guide), seeded_eval(3, story, guide):
        each = [torch.autograd.grad(objective(rows), groups["heads"]) for _ in range(5)]
    flat = torch.stack([torch.cat([g.flatten() for g in one]) for one in each])
    torch.testing.assert_close(found.mean["heads"], flat.mean(0))
    torch.testing.assert_close(found.variance["heads"], flat.var(0))
    noisy = Gradients({"g": torch.tensor([3.0, 4.0])}, {"g": torch.tensor([1.0, 3.0])}, 2)
    assert noisy.snr("g") == pytest.approx(math.sqrt((25 - 2) / 4))


def test_parameters_are_grouped_by_the_part_that_they_belong_to(pair):
    story, guide, rows = pair
    assert set(parameter_groups(story, guide)) == {"story", "heads"}  # the encoder is the identity
    flow = ppvae.guides.build("iaf", story, rows, hidden=(8,))
    assert set(parameter_groups(story, flow)) == {"story", "encoder", "heads", "flow"}
    other = nn.Linear(2, 2)
    assert set(parameter_groups(other, other)) == {"story"}
    other.requires_grad_(False)
    with pytest.raises(ValueError, match="a story and a guide all frozen"):
        parameter_groups(other, other)


def test_bad_requests_are_named(pair, bench):
    for objectives_, repeats in (((), 5), (("stl",), 1)):
        with pytest.raises(ValueError, match="at least one objective and two repeats"):
            ppvae.estimator_bench(*pair, objectives_, num_repeats=repeats)
    with pytest.raises(ValueError, match="an estimator and a group among"):
        bench.row("path", "flow")


def test_the_command_prints_the_table_and_writes_both_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": torch.randn(40, 5)}, "numbers.pt")
    typed = [
        "estimators",
        "factor_analysis",
        "--data",
        "numbers.pt",
        "--epochs",
        "1",
        "--rows",
        "4",
        "--num-repeats",
        "2",
        "--num-particles",
        "2",
        "--table",
        "table.csv",
        "--figure",
        "figure.png",
        "--objectives",
        "trace_elbo",
        "score_function:baseline=none",
        "renyi:alpha=0.5:num_particles=3",
        "--device",
        "cpu",
    ]
    assert main(typed) == 0
    assert "renyi:alpha=0.5:num_particles=3" in capsys.readouterr().out
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0].startswith("objective,group,target,bias") and len(lines) == 1 + 3 * 3
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    for wrong, message in (
        (["--objectives", "magic"], "an objective among"),
        (["--objectives", "renyi:alph=1"], "options among alpha"),
        (["--table", "table.txt"], "to be a .csv file"),
    ):
        assert main(["estimators", "factor_analysis", "--data", "numbers.pt", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_another_bound_is_not_held_against_the_benchs(pair):
    story, guide, rows = pair[:3]
    built = ppvae.objectives.build("iwae", story, guide, rows, num_particles=5)
    with pytest.raises(ValueError, match="num_particles=2, got 5"):
        ppvae.estimator_bench(story, guide, rows, objectives={"five": built}, num_particles=2)
    pressed = ppvae.objectives.build("stl", story, guide, rows, beta=4.0)
    with pytest.raises(ValueError, match="stl with beta=1, got 4.0"):
        ppvae.estimator_bench(story, guide, rows, objectives={"four": pressed}, num_particles=2)
