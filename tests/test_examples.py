r"""Each example runs, with small settings, and shows what it claims."""

import json
from pathlib import Path

import pyro
import pytest
from load_example import load_example


@pytest.mark.slow
def test_aevb_by_pyro_svi_raises_the_elbo() -> None:
    try:
        found = load_example("aevb_with_pyro_svi").main(epochs=3)
    finally:
        pyro.clear_param_store()
    assert found["after"] > found["before"] + 10


@pytest.mark.slow
def test_reparametrisation_beats_the_score_function_by_the_baselines_share() -> None:
    bench = load_example("gradient_estimators").main(epochs=1, repeats=20)
    plain, average, path, stl = (
        bench.row(name, "heads").variance
        for name in ("score function, none", "score function, average", "trace_elbo", "stl")
    )
    assert plain > 5 * average > 5 * path
    assert path > stl
    assert "steps for one" in load_example("gradient_estimators").table(bench)


@pytest.mark.slow
def test_the_two_forms_of_the_elbo_agree_and_miss_the_kl() -> None:
    found = load_example("two_forms_of_the_elbo").main(particles=400)
    gap = found["difference of the two"]
    assert abs(float(gap.value)) < 4 * float(gap.std_error)
    whole, log_p = found["ELBO + KL(q || p(z|x))"], found["log p(x), exact"]
    assert abs(float(whole.value - log_p.value)) < 4 * float(whole.std_error)
    assert float(found["KL(q || p(z|x)), exact"].value) > 0.05


@pytest.mark.slow
def test_steps_at_test_time_win_back_half_of_what_a_linear_encoder_loses(tmp_path: Path) -> None:
    example, file = load_example("semi_amortized_digits"), tmp_path / "found.json"
    found = example.main(epochs=5, test_rows=30, steps=(20,), results=file)["guides"]
    assert found["and 20 steps"]["share_closed"] > 0.5
    assert found["encoder alone"]["amortization_gap"] > 10 * found["encoder alone"]["gap_std_error"]
    assert len(example.table({"guides": found}).splitlines()) == 4 and "digits" in file.read_text()


@pytest.mark.slow
def test_an_auxiliary_variable_gives_independent_gaussians_their_correlations() -> None:
    found = load_example("auxiliary_guide").main(epochs=100)
    alone, helped = found["mean_field"]["1 particle"], found["auxiliary"]["1 particle"]
    assert float(alone.value) > 0.49  # half of sum log Lambda_ii - log det Lambda is 0.492
    assert abs(float(helped.value)) < 0.02
    assert abs(float(found["auxiliary"]["50 particles"].value)) < 0.005


@pytest.mark.slow
def test_iwae_is_measured_for_each_number_of_particles_and_taken_up_where_it_stopped(
    tmp_path: Path,
) -> None:
    example = load_example("iwae_on_mnist")
    few = {
        "epochs": 1, "test_rows": 20, "test_particles": 50, "data": "digits",
        "results": tmp_path / "found.json", "runs": tmp_path / "runs",
    }  # fmt: skip
    first = example.main(particles=(1,), **few)
    written = (tmp_path / "found.json").read_text()
    both = example.main(particles=(1, 5), **few)
    assert list(both["k"]) == ["1", "5"] and both["k"]["1"] == first["k"]["1"]
    assert both["k"]["5"]["log_p"] >= both["k"]["5"]["elbo"]
    assert "log_p_by_row" in written and len(example.table(both).splitlines()) == 3


@pytest.mark.slow
def test_gaps_and_khat_are_measured_row_by_row_and_taken_up_where_they_stopped(
    tmp_path: Path,
) -> None:
    example = load_example("gap_against_khat")
    example.STEP, example.PARTICLES, example.MANY, example.RESAMPLES = 4, 50, 60, 50
    example.TEMPERATURES, example.CHAINS, example.SIMULATED = 3, 2, 2
    few = {"epochs": 1, "num_rows": 4, "data": "digits", "runs": tmp_path / "runs"}
    found = example.main(results=tmp_path / "found.json", **few)
    assert {len(column) for column in found["by_row"].values()} == {4}
    before = (tmp_path / "found.json").read_text()
    again = example.main(results=tmp_path / "again.json", **few)
    assert again["by_row"] == found["by_row"] and again["seconds"] == found["seconds"]
    assert before and "inference gap, k-hat" in example.table(found)
    assert found["spearman"]["inference gap, k-hat"]["low"] <= 1


def test_a_rank_correlation_stands_in_its_interval() -> None:
    example = load_example("gap_against_khat")
    example.RESAMPLES = 200
    spearman = example.spearman
    same = spearman(range(30), [v**3 for v in range(30)])
    assert same == {"value": 1.0, "low": 1.0, "high": 1.0}
    loose = spearman(range(100), [v + 40 * (v % 3) for v in range(100)])
    assert -1 < loose["low"] < loose["value"] < loose["high"] < 1


@pytest.mark.slow
def test_distance_and_gap_are_held_against_each_other_family_by_family(tmp_path: Path) -> None:
    example = load_example("distance_against_gap")
    example.WARMUP = 10
    small = {"epochs": 1, "rows": 2, "samples": 10, "draws": 50, "particles": 50}
    found = example.main(results=tmp_path / "found.json", **small)
    assert len(example.table(found).splitlines()) == 8 and len(example.verdicts(found)) == 3
    kept = json.loads(example.RESULTS.read_text())
    assert kept["rhat"] < 1.01 and "disagree" not in example.verdicts(kept).values()


def test_the_score_function_is_unbiased_and_concrete_is_not() -> None:
    found = load_example("gradients_through_discrete_sites").main(num_draws=150)
    for name, (bias, std_error, noise) in found.items():
        if name.startswith("score function"):
            assert bias < 4 * std_error, name
            assert noise > found["Concrete, temperature 1.0"][2]
    bias, std_error, _ = found["Concrete, temperature 1.0"]
    assert bias > 4 * std_error
