r"""Predictive checks: the right story passes, a wrong one fails in the statistic that is wrong."""

import pytest
import torch
from diagnostics.wrong import PriorGuide
from exact import ScaledPosterior, linear_gaussian, rows_of
from stories import CASES, built

from ppvae import guides as families
from ppvae.diagnostics import (
    PredictiveCheck,
    posterior_predictive_check,
    prior_predictive_check,
)


@pytest.fixture(scope="module")
def story():
    return linear_gaussian()


@pytest.fixture(scope="module")
def rows(story):
    return rows_of(story, 300)


def test_the_right_story_and_guide_pass_both_checks(story, rows):
    assert posterior_predictive_check(story, ScaledPosterior(story), rows).verdict == "pass"
    assert prior_predictive_check(story, rows).verdict == "pass"


def test_each_fault_of_the_data_fails_its_own_statistic(story, rows):
    faults = {
        "x: mean": rows["x"] + 1.0,
        "x: standard deviation": (rows["x"] - story.offset) * 2 + story.offset,
        "x: share of zeros": torch.where(torch.rand_like(rows["x"]) < 0.05, 0.0, rows["x"]),
    }
    for name, x in faults.items():
        assert prior_predictive_check(story, {"x": x.detach()}).verdicts[name] == "fail"


def test_a_shifted_guide_is_seen_and_a_slightly_narrow_one_is_not(story, rows):
    shifted = ScaledPosterior(story, 1.0, 0.7)
    assert posterior_predictive_check(story, shifted, rows).verdict == "fail"
    narrow = ScaledPosterior(story, 0.8)
    assert posterior_predictive_check(story, narrow, rows).verdict == "pass"


def test_a_guide_that_ignores_the_row_is_not_seen_by_pooled_statistics_but_by_a_residual(
    story, rows
):
    guide, x = PriorGuide(story), rows["x"].detach()
    assert posterior_predictive_check(story, guide, rows).verdict == "pass"
    # how far a replicate lies from its own row, held against the rows' own noise
    near = {"residual": lambda rep: (rep - x - story.noise_scale).square().mean().detach()}
    right = posterior_predictive_check(story, ScaledPosterior(story), rows, statistics=near)
    wrong = posterior_predictive_check(story, guide, rows, statistics=near)
    assert wrong.replicated["x: residual"].mean() > 2 * right.replicated["x: residual"].mean()


def test_the_tail_probability_counts_ties_half_and_never_claims_no_error(story, rows):
    constant = {"one": lambda x: torch.ones(())}
    p = prior_predictive_check(story, rows, statistics=constant).tail_probability["x: one"]
    assert float(p.value) == 0.5
    far = prior_predictive_check(story, {"x": rows["x"] + 50}).tail_probability["x: mean"]
    assert float(far.value) == 0.0 and float(far.std_error) > 0


def test_a_statistic_may_have_many_numbers_and_is_corrected_for_them(story, rows):
    by_sensor = {"by sensor": lambda x: x.mean(0).detach()}
    found = prior_predictive_check(story, rows, statistics=by_sensor)
    assert found.observed["x: by sensor"].shape == (8,)
    assert found.verdict == "pass"
    moved = rows["x"].detach().clone()
    moved[:, 3] += 2.0
    assert prior_predictive_check(story, {"x": moved}, statistics=by_sensor).verdict == "fail"


def test_one_statistic_of_many_that_is_extreme_by_chance_is_a_warning():
    observed = {f"x: s{i}": torch.tensor(0.5) for i in range(8)}
    replicated = {name: torch.linspace(0, 1, 200) for name in observed}
    replicated["x: s3"] = torch.cat([torch.zeros(197), torch.ones(3)])  # 1.5 % above the data
    found = PredictiveCheck(observed, replicated, "prior")
    assert found.verdicts["x: s3"] == "warn" == found.verdict
    alone = PredictiveCheck({"x: s3": observed["x: s3"]}, {"x: s3": replicated["x: s3"]}, "prior")
    assert alone.verdict == "fail"
    few = PredictiveCheck({"x: s3": observed["x: s3"]}, {"x: s3": torch.zeros(20)}, "prior")
    assert few.verdict == "warn"  # none of twenty is no proof of less than 2.5 %


def test_a_statistic_that_cannot_differ_has_no_verdict():
    observed, replicated = {"x: maximum": torch.ones(())}, {"x: maximum": torch.ones(50)}
    found = PredictiveCheck(observed, replicated, "posterior")
    assert found.verdict == "none" and "always" in found.findings[0].threshold


def test_entries_missing_in_the_data_are_missing_in_the_replicates(story, rows):
    x = rows["x"].detach().clone()
    x[::2, 1] = torch.nan
    guide = families.build("mean_field", story, {"x": x}, hidden=(8,))
    counted = {"missing": lambda v: v.isnan().double().mean()}
    for found in (
        prior_predictive_check(story, {"x": x}, statistics=counted, num_replicates=3),
        posterior_predictive_check(story, guide, {"x": x}, statistics=counted, num_replicates=3),
    ):
        assert bool((found.replicated["x: missing"] == found.observed["x: missing"]).all())
    assert posterior_predictive_check(story, guide, {"x": x}, num_replicates=3).observed


@pytest.mark.parametrize("kind", ["covariate", "several_observed", "inner_explicit", "global"])
def test_checks_run_with_covariates_counts_plates_and_global_sites(kind):
    story, guide, batch = built(kind, 20)
    sites = set(CASES[kind].observed)
    for found in (
        prior_predictive_check(story, batch, num_replicates=5),
        posterior_predictive_check(story, guide, batch, num_replicates=5),
    ):
        assert {name.partition(":")[0] for name in found.observed} == sites


def test_memory_chunks_do_not_change_what_is_checked(story, rows, monkeypatch):
    monkeypatch.setattr("ppvae.data.chunks.CHUNK_NUMBERS", 256 * 100)
    found = posterior_predictive_check(story, ScaledPosterior(story), rows, num_replicates=50)
    assert found.replicated["x: mean"].shape == (50,) and found.verdict == "pass"


def test_faulty_statistics_are_refused_by_name(story, rows):
    with pytest.raises(ValueError, match="statistic 'bad' of site 'x': expected numbers, got NaN"):
        prior_predictive_check(story, rows, statistics={"bad": lambda x: x.mean() * torch.nan})
    with pytest.raises(ValueError, match="at least one statistic"):
        prior_predictive_check(story, rows, statistics={})
    with pytest.raises(ValueError, match="at least one replicate"):
        prior_predictive_check(story, rows, num_replicates=0)
