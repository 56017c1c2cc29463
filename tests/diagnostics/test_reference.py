r"""Reference chains against closed forms, and the distances of right and wrong guides from them."""

import math

import pytest
import torch
from diagnostics.wrong import OneMode, TwoModes, wrong_guides
from exact import ScaledPosterior, linear_gaussian, rows_of
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from stories import built

import ppvae
from ppvae.diagnostics import distance_to_reference, khat, khat_threshold, reference_posterior


@pytest.fixture(scope="module")
def story():
    return linear_gaussian()


@pytest.fixture(scope="module")
def distances(story, reference):
    quick = QuadraticDiscriminantAnalysis()
    return {
        name: distance_to_reference(guide, reference, classifier=quick)
        for name, guide in wrong_guides(story).items()
    }


def test_reference_chains_converge(reference):
    assert bool(reference.converged.all()) and reference.verdict == "pass"
    assert float(reference.rhat.max()) < 1.01 and int(reference.divergences.sum()) == 0
    assert reference.findings[0].advice == ""


def test_reference_moments_are_those_of_the_exact_posterior(story, reference):
    q = story.posterior(reference.batch)
    draws, ess = reference.draws["z"], reference.ess
    deviation = (draws.mean(0) - q.loc) / (q.variance / ess).sqrt()
    assert float(deviation.detach().abs().max()) < 4
    ratio = draws.var(0) / q.variance
    assert (
        float(((ratio - 1) / (2 / ess).sqrt()).detach().abs().max()) < 6
    )  # draws of squares mix slower


def test_reference_takes_the_rows_that_were_asked_for(story, reference):
    rows = rows_of(story, 10)["x"][[1, 4, 7]]
    torch.testing.assert_close(reference.batch["x"], rows.detach())


@pytest.mark.parametrize("kind", ["positive", "simplex", "inner_explicit", "covariate"])
def test_reference_runs_on_supports_plates_and_covariates(kind):
    story, _, batch = built(kind, 3)
    found = reference_posterior(story, batch, num_chains=2, num_warmup=15, num_samples=8)
    for site in found.sites.latent.values():
        assert bool(site.support.check(found.draws[site.name]).all())


def test_chains_that_do_not_agree_are_reported():
    story = TwoModes()
    rows = {"x": torch.full((2, 1), 9.0).double()}  # modes at -3 and 3, far apart
    found = reference_posterior(story, rows, num_warmup=60, num_samples=60)
    assert float(found.rhat.max()) > 1.1 and found.verdict == "fail"
    assert "run longer" in found.findings[0].advice


def test_the_right_guide_cannot_be_told_from_the_reference(distances):
    right = distances["right"]
    assert right.verdict == "pass"
    assert float(right.accuracy.value.max()) < 0.5 + 0.06
    assert float(right.mean_error.abs().max()) < 0.15
    assert float((right.sliced_wasserstein / right.floor).max()) < 1.5


@pytest.mark.parametrize("name", ["wide", "narrow", "shifted", "prior"])
def test_wrong_guides_are_told_from_the_reference(distances, name):
    assert distances[name].verdict == "fail"
    further = distances[name].sliced_wasserstein / distances["right"].sliced_wasserstein
    assert float(further.min()) > 1.5


def test_distances_measure_the_fault(story, reference, distances):
    sd = story.posterior(reference.batch).variance.sqrt()
    torch.testing.assert_close(
        distances["wide"].log_scale_error.mean(),
        torch.tensor(math.log(1.5)).double(),
        atol=0.05,
        rtol=0,
    )
    torch.testing.assert_close(
        distances["shifted"].mean_error, 0.25 / sd.detach(), atol=0.15, rtol=0.1
    )
    assert "scale 0.6" in distances["narrow"].findings[0].advice


def test_the_default_classifier_sees_a_narrow_guide(story, reference):
    found = distance_to_reference(ScaledPosterior(story, 0.5), reference, num_draws=400)
    assert float(found.accuracy.value.mean()) > 0.6


def test_khat_misses_a_lost_mode_and_a_reference_that_starts_at_the_prior_finds_it(
    two_modes_reference,
):
    guide, found = OneMode(), two_modes_reference
    weights = ppvae.log_weights(TwoModes(), guide, found.batch, 2000, seed=0)
    assert bool((khat(weights) < khat_threshold(2000)).all())
    assert bool((found.draws["z"] < 0).any(0).all()) and bool((found.draws["z"] > 0).any(0).all())
    distance = distance_to_reference(guide, found, classifier=QuadraticDiscriminantAnalysis())
    assert distance.verdict == "fail" and float(distance.log_scale_error.max()) < -1


def test_bad_requests_are_refused(story, reference):
    rows = rows_of(story, 3)
    with pytest.raises(ValueError, match="numbers of rows from 0 to 2, got"):
        reference_posterior(story, rows, rows=[3])
    with pytest.raises(ValueError, match="at least 2 chains"):
        reference_posterior(story, rows, num_chains=1)
    with pytest.raises(ValueError, match="at least 10 draws"):
        distance_to_reference(ScaledPosterior(story), reference, num_draws=4)
    pooled, _, batch = built("global", 5)
    with pytest.raises(ValueError, match="inside the plate 'data'"):
        reference_posterior(pooled, batch)
