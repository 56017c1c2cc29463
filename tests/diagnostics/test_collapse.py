r"""Active units, KL by site and the decomposition of the ELBO against closed forms of the
linear-Gaussian story."""

import math

import pyro.distributions as dist
import pytest
import torch
from diagnostics.wrong import MixedUp, PriorGuide
from exact import ScaledPosterior, linear_gaussian, rows_of
from stories import built

import ppvae
from ppvae.diagnostics import active_units, kl_by_site, mutual_information


@pytest.fixture(scope="module")
def story():
    made = linear_gaussian()
    with torch.no_grad():
        made.loadings[:, 2] = 0.0  # a cause that no sensor sees
    return made


@pytest.fixture(scope="module")
def rows(story):
    return rows_of(story, 600)


# --- active units -----------------------------------------------------------


@pytest.mark.parametrize(
    ("guide", "active", "verdict", "advice"),
    [
        (ScaledPosterior, [True, True, False], "warn", "1 of 3 latent numbers"),
        # a narrow guide cannot be told from the right one: its means move as they should
        (lambda story: ScaledPosterior(story, 0.3), [True, True, False], "warn", "1 of 3"),
        (PriorGuide, [False, False, False], "fail", "collapsed"),
    ],
    ids=["right", "narrow", "prior"],
)
def test_active_units_find_the_causes_that_the_means_follow(
    story, rows, guide, active, verdict, advice
):
    found = active_units(story, guide(story), rows)
    assert found.active["z"].tolist() == active and found.verdict == verdict
    assert (found.num_active, found.num_units) == (sum(active), 3)
    assert advice in found.findings[0].advice


def test_the_variance_is_that_of_the_exact_posterior_means(story, rows):
    found = active_units(story, ScaledPosterior(story), rows, num_particles=50).variance["z"]
    exact = story.posterior(rows).loc.var(0)
    noise = 4 * 0.3 * (2 * exact.clamp(min=1e-3) / len(rows)).sqrt()  # of 50 particles a row
    assert bool(((found.value - exact).abs() < noise).all())


# --- KL by site -------------------------------------------------------------


def exact_kl(q):
    prior = dist.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    return torch.distributions.kl_divergence(q, prior)


def test_kl_by_particles_is_that_of_the_gaussians(story, rows):
    found = kl_by_site(story, ScaledPosterior(story), rows).total
    error = (found.value - exact_kl(story.posterior(rows)).detach()) / found.std_error
    assert float(error.abs().max()) < 5 and abs(float(error.mean())) < 4 / len(rows) ** 0.5


def test_kl_of_a_factorised_guide_is_exact_and_splits_into_numbers(story, rows):
    found = kl_by_site(story, MixedUp(story), rows, num_particles=2)
    q = story.posterior(rows)
    scale = q.variance.sqrt()
    exact = -scale.log() + 0.5 * (q.variance + q.loc.square() - 1)
    torch.testing.assert_close(found.total.value, exact.sum(-1))
    assert float(found.total.std_error.abs().max()) < 1e-12
    torch.testing.assert_close(found.numbers["z"].value, exact.mean(0))
    assert float(found.numbers["z"].value[2]) < 1e-12


def test_kl_and_likelihood_add_up_to_the_elbo(story, rows):
    guide = ScaledPosterior(story, 0.8)
    cost = kl_by_site(story, guide, rows, num_particles=400).total.mean()
    elbo = ppvae.log_weights(story, guide, rows, 400, seed=1).mean()
    q = story.posterior(rows)
    spread = torch.linalg.cholesky(q.covariance_matrix) * 0.8
    mean = q.loc @ story.loadings.T + story.offset
    trace = (story.loadings @ spread).square().sum(-1)
    noise = story.noise_scale.square()
    likelihood = (
        -0.5 * ((rows["x"] - mean).square() + trace) / noise - 0.5 * (2 * math.pi * noise).log()
    )
    assert abs(float((likelihood.sum(-1).mean() - cost.value - elbo).detach())) < 0.02


@pytest.mark.parametrize(
    "kind", ["two_sites", "positive", "inner_explicit", "hierarchical", "covariate"]
)
@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_sites_add_up_to_the_total(kind, family):
    story, guide, batch = built(kind, 15, family=family)
    found = kl_by_site(story, guide, batch, num_particles=20)
    torch.testing.assert_close(sum(v.value for v in found.sites.values()), found.total.value)
    if family == "mean_field":
        assert all("+" not in name for name in found.sites)


# --- the decomposition of the ELBO -----------------------------------------------------------


def test_the_decomposition_adds_up_and_matches_the_linear_gaussian_information(story, rows):
    found = mutual_information(story, ScaledPosterior(story), rows, num_particles=4)
    total = found.mutual_information.value + found.aggregate_kl.value
    torch.testing.assert_close(total, found.kl.value)
    # I(x; z) of the story is 1/2 log det Lambda; N rows can tell a little less of it
    exact = float(0.5 * story.posterior_precision().logdet())
    error = float(found.mutual_information.std_error)
    assert -0.3 < float(found.mutual_information.value) - exact < 4 * error
    assert float(found.aggregate_kl.value) < 0.3


def test_a_guide_that_ignores_the_row_tells_nothing(story, rows):
    found = mutual_information(story, PriorGuide(story), rows)
    assert abs(float(found.mutual_information.value)) < 1e-9
    assert abs(float(found.aggregate_kl.value)) < 1e-9
    assert found.verdict == "fail" and "collapse" in found.findings[0].advice


def test_rows_that_are_told_apart_give_log_n(story, rows):
    few = {"x": rows["x"][:8]}
    found = mutual_information(story, ScaledPosterior(story, 1e-3), few)
    assert abs(float(found.mutual_information.value) - math.log(8)) < 1e-6
    assert found.log_rows == pytest.approx(math.log(8))


def test_the_decomposition_of_flows_and_mean_field_runs_on_several_sites():
    for family in ("mean_field", "full_rank", "iaf"):
        found = mutual_information(*built("two_sites", 10, family), num_particles=2)
        assert torch.isfinite(found.mutual_information.value)


def test_chunks_do_not_change_the_information(story, rows, monkeypatch):
    few = {"x": rows["x"][:40]}
    guide = ScaledPosterior(story)
    whole = mutual_information(story, guide, few, num_particles=2)
    monkeypatch.setattr("ppvae.diagnostics.elbo_decomposition.CHUNK_NUMBERS", 256 * 7)
    torch.testing.assert_close(
        mutual_information(story, guide, few, num_particles=2).kl.value, whole.kl.value
    )
    torch.testing.assert_close(
        mutual_information(story, guide, few, num_particles=2).mutual_information.value,
        whole.mutual_information.value,
    )


def test_no_more_than_max_rows_are_used_and_the_finding_says_so(story, rows):
    guide = ScaledPosterior(story)
    whole = mutual_information(story, guide, rows, num_particles=2, max_rows=600)
    assert whole.num_rows == whole.num_given == 600 and "rows" not in whole.findings[0].threshold
    few, again = (
        mutual_information(story, guide, rows, num_particles=2, max_rows=20) for _ in range(2)
    )
    assert (few.num_rows, few.num_given) == (20, 600)
    assert "20 of 600 rows" in few.findings[0].threshold
    assert float(again.mutual_information.value) == float(few.mutual_information.value)


# --- errors -----------------------------------------------------------------


def test_collapse_diagnostics_say_what_they_need(story, rows):
    with pytest.raises(ValueError, match="at least two rows and two particles"):
        active_units(story, ScaledPosterior(story), {"x": rows["x"][:1]})
    with pytest.raises(ValueError, match="at least two particles"):
        kl_by_site(story, ScaledPosterior(story), rows, num_particles=1)
    with pytest.raises(ValueError, match="at least two rows, got 600 and max_rows=1"):
        mutual_information(story, ScaledPosterior(story), rows, max_rows=1)
    with pytest.raises(ValueError, match=r"without covariates .*\['dose'\]"):
        mutual_information(*built("covariate", 10))
    for run in (active_units, kl_by_site, mutual_information):
        with pytest.raises(ValueError, match="inside the plate 'data'"):
            run(*built("global", 10))
