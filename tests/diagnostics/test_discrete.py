r"""Diagnostics of stories with finite discrete sites: left out by the guide, missing in some
rows, or drawn."""

import math

import pytest
import torch
from diagnostics.mixtures import NOISE, LabelGuide, MixturePosterior, MixturePrior, labelled_rows
from discrete_stories import Codes, made
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from test_summing import GaussianMixture, by_hand

import ppvae
from ppvae.diagnostics import (
    by_row,
    coverage,
    diagnose,
    distance_to_reference,
    kl_by_site,
    mutual_information,
    posterior_predictive_check,
    reference_posterior,
    sbc,
    tarp,
)
from ppvae.problem import Problem

N = {"num_simulations": 600}
WRONG = {"wide": (1.6, 0.0), "narrow": (0.5, 0.0), "shifted": (1.0, 0.5)}
LEAST_P = 0.001


@pytest.fixture(scope="module")
def story():
    return MixturePrior()


@pytest.fixture(scope="module")
def rows(story):
    return {"x": ppvae.simulate(story, 150, seed=0)["x"]}


@pytest.fixture(scope="module")
def labelled(story):
    return labelled_rows(story, 150)


@pytest.fixture(params=["label left out", "label missing in some rows"])
def data(request, rows, labelled):
    return rows if request.param == "label left out" else labelled


# --- a site that the guide leaves out ---------------------------------------


def test_the_exact_guide_has_constant_weights_row_by_row(story, data):
    found = by_row(story, MixturePosterior(story), data, num_particles=100)
    assert bool((found.khat == -math.inf).all())
    assert float(found.gap.value.abs().max()) < 1e-12
    assert set(found.mean_error) == {"z"}  # a category has no mean
    if set(data) == {"x"}:
        torch.testing.assert_close(found.log_evidence.value, story.log_evidence(data))


def test_the_reconstruction_error_counts_no_label_that_is_missing(story, labelled):
    found = by_row(story, MixturePosterior(story), labelled, num_particles=2000)
    unknown = torch.isnan(labelled["y"])
    pair = by_row(story, MixturePosterior(story), {"x": labelled["x"]}, num_particles=2000)
    ours, theirs = found.reconstruction_error[unknown], pair.reconstruction_error[unknown]
    error = (ours.std_error.square() + theirs.std_error.square()).sqrt()
    assert float(((ours.value - theirs.value) / error).abs().max()) < 4.5


@pytest.mark.parametrize("run", [sbc, coverage, tarp])
def test_calibration_passes_the_exact_guide(story, data, run):
    assert run(story, MixturePosterior(story), data, **N).p_value > LEAST_P


@pytest.mark.parametrize("fault", sorted(WRONG))
def test_calibration_catches_wrong_guides(story, rows, fault):
    guide = MixturePosterior(story, *WRONG[fault])
    assert sbc(story, guide, rows, **N).verdict == "fail"
    assert coverage(story, guide, rows, **N).verdict == "fail"


def test_sbc_ranks_the_label_beside_the_number(story, data):
    found = sbc(story, MixturePosterior(story), data, num_simulations=20, num_draws=9)
    assert set(found.sbc_ranks.names) == {"y", "z", "log_likelihood"}


def test_the_cost_of_label_and_number_adds_up_to_the_exact_kl(story, rows):
    found = kl_by_site(story, MixturePosterior(story), rows, num_particles=2000)
    # KL(p(y, z | x) || p(y, z)) = E[log p(x | z)] - log p(x)
    precision = 1 + 1 / NOISE**2
    mean = (story.center + rows["x"][:, None] / NOISE**2) / precision
    square = (rows["x"][:, None] - mean).square() + 1 / precision
    seen = -0.5 * square / NOISE**2 - 0.5 * math.log(2 * math.pi * NOISE**2)
    share = story.log_label(rows).exp()
    exact = (share * seen).sum(-1) - story.log_evidence(rows)
    score = (found.total.value - exact) / found.total.std_error
    assert float(score.abs().max()) < 4.5 and abs(float(score.mean())) < 4 / len(score) ** 0.5
    torch.testing.assert_close(sum(v.value for v in found.sites.values()), found.total.value)
    assert set(found.sites) == {"y", "z"}


def test_a_label_that_is_shown_costs_nothing(story, labelled):
    found = kl_by_site(story, MixturePosterior(story), labelled, num_particles=50)
    shown = ~torch.isnan(labelled["y"])
    assert float(found.sites["y"].value[shown].abs().max()) == 0
    log_label = story.log_label({"x": labelled["x"]})
    exact = (log_label.exp() * (log_label - story.log_share)).sum(-1)[~shown].mean()
    far = found.sites["y"][~shown]
    error = float(far.std_error.square().sum().sqrt() / len(far))
    # given z the label is drawn from p(y | z), which costs what z has not already told
    assert float(far.value.mean()) > float(exact) - 4 * error


def test_the_information_is_held_against_the_prior_with_the_label_summed_out(story, data):
    found = mutual_information(story, MixturePosterior(story), {"x": data["x"]}, num_particles=20)
    torch.manual_seed(0)
    drawn = Problem.of(story, MixturePosterior(story), {"x": data["x"]}).draw(400)
    cost = (drawn.local - story.log_prior(drawn.values["z"])).mean(0)
    error = 4 * float(found.kl.std_error) / len(cost) ** 0.5 + 0.05
    assert abs(float(found.kl.value) - float(cost.mean())) < error
    assert 0 < float(found.mutual_information.value) < float(found.kl.value)


def test_labels_that_some_rows_show_are_summed_out_of_the_aggregate_prior(story, labelled):
    found = mutual_information(story, MixturePosterior(story), labelled, num_particles=20)
    drawn = Problem.of(story, MixturePosterior(story), labelled).draw(400)
    cost = (drawn.local - story.log_prior(drawn.values["z"])).mean()
    assert abs(float(found.kl.value) - float(cost)) < 4 * float(found.kl.std_error)


def test_reference_chains_walk_in_the_number_with_the_label_summed_out(story, rows):
    few = {"x": torch.tensor([-1.5, 0.5, 2.0]).double()}
    found = reference_posterior(story, few, num_warmup=150, num_samples=300)
    assert bool(found.converged.all()) and set(found.draws) == {"z"}
    exact = story.log_label(few).exp()
    mean = (story.center + few["x"][:, None] / NOISE**2) / (1 + 1 / NOISE**2)
    truth = (exact * mean).sum(-1)
    spread = (found.draws["z"].var(0) / found.ess[:, 0]).sqrt()
    assert float(((found.draws["z"].mean(0) - truth) / spread).abs().max()) < 4
    quick = {"classifier": QuadraticDiscriminantAnalysis()}
    right = distance_to_reference(MixturePosterior(story), found, **quick)
    assert right.verdict == "pass"
    for fault in WRONG.values():
        wrong = distance_to_reference(MixturePosterior(story, *fault), found, **quick)
        assert float((wrong.sliced_wasserstein / right.sliced_wasserstein).min()) > 1.5


def test_replicates_hold_a_label_where_it_is_shown(story, labelled):
    guide = MixturePosterior(story)
    found = posterior_predictive_check(story, guide, labelled, num_replicates=50)
    assert {name.partition(":")[0] for name in found.observed} == {"x"}
    assert found.verdict == "pass"


def test_the_arviz_hand_off_holds_the_label_with_densities_that_give_the_evidence(story, rows):
    found = ppvae.to_arviz(story, MixturePosterior(story), rows, num_samples=40)
    assert found["posterior"]["y"].dims == ("chain", "draw", "row")
    stats = found["sample_stats"]
    log_w = torch.from_numpy((stats["log_p"] - stats["log_q"]).values).flatten(0, 1)
    exact = story.log_evidence(rows)
    torch.testing.assert_close(log_w, exact.expand_as(log_w))


def test_the_arviz_hand_off_scores_no_label_that_is_missing(story, labelled):
    found = ppvae.to_arviz(story, MixturePosterior(story), labelled, num_samples=8)
    unknown = torch.isnan(labelled["y"]).numpy()
    likelihood = found["log_likelihood"]["y"].values
    assert (likelihood[..., unknown] == 0).all() and (likelihood[..., ~unknown] < 0).all()
    assert "y" in found["posterior"] and "y" not in found["posterior_predictive"]


def test_everything_is_measured_in_one_go(story, data):
    small = {"num_particles": 50, "num_simulations": 40, "num_replicates": 5}
    found = diagnose(story, MixturePosterior(story), data, **small)
    assert not found.reasons
    found.plot().canvas.draw()


# --- stories of discrete sites only -----------------------------------------


@pytest.fixture(scope="module")
def mixture():
    return GaussianMixture()


@pytest.fixture(scope="module")
def points(mixture):
    return {"x": ppvae.simulate(mixture, 120, seed=0)["x"]}


def log_label(mixture):
    return lambda x: by_hand(mixture, x).T.log_softmax(-1).detach()


def test_enumerated_is_right_in_all_that_can_be_asked_of_it(mixture, points):
    guide = ppvae.guides.build("enumerated", mixture, points)
    size = {"num_particles": 50, "num_simulations": 300, "num_replicates": 20}
    found = diagnose(mixture, guide, points, reference_rows=1, **size)
    assert float(found.by_row.gap.value.abs().max()) < 1e-12
    assert found.sbc.p_value > LEAST_P and found.tarp.p_value > LEAST_P
    assert set(found.reasons) == {"reference chains", "expected coverage", "I(x; z)"}
    assert all("['k']" in reason for reason in found.reasons.values())
    assert "most_shifted" not in found.by_row.to_pandas() and "most shifted" not in str(
        found.by_row
    )
    found.plot().canvas.draw()


def test_the_cost_of_an_enumerated_site_is_its_exact_kl(mixture, points):
    guide = ppvae.guides.build("enumerated", mixture, points)
    found = kl_by_site(mixture, guide, points, num_particles=4000).sites["k"]
    log_p = log_label(mixture)(points["x"])
    exact = (log_p.exp() * (log_p - mixture.log_prior)).sum(-1)
    error = float(found.std_error.square().sum().sqrt() / len(exact))
    assert abs(float((found.value - exact).mean())) < 4 * error


def test_a_guide_that_draws_the_site_is_judged_by_its_density(mixture, points):
    right, flat = (LabelGuide(log_label(mixture), heat) for heat in (1.0, 4.0))
    for run in (sbc, coverage, tarp):
        assert run(mixture, right, points, **N).p_value > LEAST_P
    assert coverage(mixture, flat, points, **N).verdict == "fail"
    assert sbc(mixture, flat, points, **N).verdict == "fail"
    assert float(by_row(mixture, right, points).gap.value.abs().max()) < 1e-9
    told = mutual_information(mixture, right, points).mutual_information.value
    log_p = log_label(mixture)(points["x"])
    exact = (log_p.exp() * (log_p - log_p.exp().mean(0).log())).sum(-1).mean()
    assert abs(float(told - exact)) < 0.1


@pytest.mark.parametrize("family", ["categorical", "concrete"])
@pytest.mark.parametrize("continuous", [False, True])
def test_the_density_of_a_guide_with_discrete_sites_holds_all_its_sites(family, continuous):
    story, batch, guide = made(family, Codes(continuous), n=5)
    problem = Problem.of(story, guide, batch)
    with torch.no_grad(), problem.eval_mode(0):
        drawn = problem.draw(7)
        again = problem.log_guide(drawn.values)
    torch.testing.assert_close(again, drawn.local)


def test_a_label_that_is_drawn_after_the_number_it_causes_biases_no_cost(story, rows):
    # KL(q(z) || p(z | y)) in closed form, at a y that was drawn given z, would be too high
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = ppvae.guides.build("mean_field", story, rows, hidden=(8,))
    cost = kl_by_site(story, guide, rows, num_particles=1000).total
    lost = by_row(story, guide, rows, num_particles=1000, seed=1)
    identity = cost.value + lost.elbo.value + lost.reconstruction_error.value
    error = (
        cost.std_error.square() + lost.elbo.std_error.square()
        + lost.reconstruction_error.std_error.square()
    ).sqrt()  # fmt: skip
    assert abs(float(identity.mean())) < 4 * float(error.square().sum().sqrt()) / len(error)


def test_stories_that_only_some_can_serve_are_refused_by_name(mixture, points):
    enumerated = ppvae.guides.build("enumerated", mixture, points)
    with pytest.raises(ValueError, match=r"expected coverage, got one that leaves out \['k'\]"):
        coverage(mixture, enumerated, points, num_simulations=10)
    with pytest.raises(ValueError, match=r"mutual information, got one that leaves out \['k'\]"):
        mutual_information(mixture, enumerated, points)
    with pytest.raises(ValueError, match=r"only the discrete sites \['k'\]"):
        reference_posterior(mixture, points)
