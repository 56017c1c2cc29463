r"""Annealing is unbiased whatever its settings, says how well it knows, and is certified from both
sides.
"""

from itertools import pairwise

import exact
import pytest
import torch

import ppvae
from ppvae.config import ANNEALING_SCHEDULES
from ppvae.inference import Annealing, ais, certify
from ppvae.inference.ais import WeightedChains
from ppvae.inference.pilot_run import temperatures

REPEATS = 1000
SETTINGS = {
    "linear": Annealing(num_chains=1, num_temperatures=5),
    "geometric from the prior": Annealing(
        num_chains=1, num_temperatures=12, num_leapfrog=3, start="prior"
    ),
    "sigmoid": Annealing(num_chains=1, num_temperatures=5, temperature_schedule="sigmoid"),
    "adaptive": Annealing(num_chains=1, temperature_schedule="adaptive", conditional_ess=0.8),
    "resampled": Annealing(
        num_chains=6,
        num_temperatures=12,
        num_leapfrog=1,
        start="prior",
        temperature_schedule="linear",
        resample=True,
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_annealing_is_unbiased_in_exp_space(name):
    story = exact.linear_gaussian(4, 2)
    rows = exact.rows_of(story, 1)
    many = {
        "x": rows["x"].expand(REPEATS, -1)
    }  # a repeat is a row: each has a pilot run of its own
    guide = exact.ScaledPosterior(story, 2.0, shift=0.5)
    found = ais(story, many, guide=guide, annealing=SETTINGS[name], local_steps=0)
    weights = (found.log_evidence.value - story.log_evidence(many)).detach().exp()
    assert abs(float(weights.mean()) - 1) < 4 * float(weights.std()) / REPEATS**0.5
    assert float(weights.std()) > 0.01  # there was something to get wrong


def test_the_error_of_resampled_chains_is_that_of_repeats():
    story = exact.linear_gaussian(4, 2)
    rows = exact.rows_of(story, 1)
    many = {"x": rows["x"].expand(REPEATS, -1)}
    settings = Annealing(
        num_chains=20,
        num_temperatures=12,
        num_leapfrog=1,
        start="prior",
        temperature_schedule="linear",
        resample=True,
    )
    found = ais(story, many, annealing=settings).log_evidence
    ratio = (found.value - story.log_evidence(many)).detach().exp()
    # The mean of the estimated relative variances is that of the repeats, each up to its own error.
    # Those that came out below zero, and are unknown by themselves, count as zero.
    relative = found.std_error.nan_to_num(0).square() * ratio.square()
    true, error = float(ratio.var()), float(relative.std()) / REPEATS**0.5
    assert abs(float(relative.mean()) - true) < 4 * (error + true * (2 / REPEATS) ** 0.5)


def test_without_resampling_the_error_is_that_of_the_delta_method():
    torch.manual_seed(0)
    log_w = torch.randn(10, 5).double()
    own = torch.arange(10).unsqueeze(1).expand(10, 5)
    chains = WeightedChains(log_w, torch.ones(5), own, torch.zeros(5).double())
    expected = ppvae.inference.importance_evidence(log_w)
    torch.testing.assert_close(chains.log_mean().value, expected.value)
    torch.testing.assert_close(chains.log_mean().std_error, expected.std_error)


@pytest.mark.parametrize(
    ("latent_dim", "start", "family"),
    [(d, "guide", "mean_field") for d in (2, 10, 50)]
    + [(3, "guide", "iaf"), (2, "prior", "mean_field"), (10, "prior", "mean_field")],
)
def test_bounds_from_both_directions_stand_on_either_side_of_the_evidence(
    latent_dim, start, family
):
    story = exact.linear_gaussian(latent_dim + 5, latent_dim)
    guide = ppvae.guides.build(family, story, exact.rows_of(story, 20))
    annealing = Annealing(
        num_chains=8, num_temperatures=10 if start == "guide" else 40, num_leapfrog=3, start=start
    )
    sandwich = ppvae.bdmc(
        story, guide, num_simulated=20, observed=["x"], annealing=annealing, local_steps=20, seed=3
    )
    truth = story.log_evidence(exact.rows_of(story, 20, seed=3)).detach()
    for bound, sign in ((sandwich.lower, 1), (sandwich.upper, -1)):
        room = ppvae.Estimate.of_draws(sign * (truth - bound.value))
        assert float(room.value) > -4 * float(room.std_error)
    torch.testing.assert_close(sandwich.width.value, sandwich.upper.value - sandwich.lower.value)
    assert sandwich.width.value.shape == (20,)
    assert bool(sandwich.upper.std_error.isnan().all())  # one exact draw a row
    assert float(sandwich.upper.mean().std_error) > 0


def test_one_call_judges_the_settings_that_are_used_on_data():
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 20)
    guide = ppvae.guides.build("full_rank", story, rows)
    good = certify(
        story,
        guide,
        rows,
        num_simulated=20,
        annealing=Annealing(num_chains=8, num_temperatures=20),
        local_steps=300,
    )
    hasty = certify(
        story,
        guide,
        rows,
        num_simulated=20,
        annealing=Annealing(num_chains=2, num_temperatures=1),
        local_steps=0,
    )
    assert good.converged and "converged" in str(good)
    assert not hasty.converged and "take more temperatures" in str(hasty)


def test_a_verdict_says_what_to_do():
    zero = ppvae.Estimate.exact(torch.zeros(4))
    for upper, verdict in (
        ([0.04, 0.05, 0.06, 0.05], "converged"),
        ([1.0, -1.0, 1.0, -0.9], "too uncertain to call converged: take more rows, chains or temp"),
        ([1.0, 0.9, 1.1, 1.0], "not converged: take more temperatures"),
    ):
        found = ppvae.Sandwich(zero, ppvae.Estimate.exact(torch.tensor(upper)))
        assert found.verdict.startswith(verdict) and verdict in str(found)
        assert found.converged == (verdict == "converged")


@pytest.mark.parametrize("schedule", [s for s in ANNEALING_SCHEDULES if s != "adaptive"])
@pytest.mark.parametrize("start", ["guide", "prior"])
def test_schedules_rise_from_zero_to_one(schedule, start):
    settings = Annealing(num_temperatures=30, temperature_schedule=schedule, start=start)
    betas = temperatures(settings)
    assert len(betas) == 31 and betas[0] == 0 and betas[-1] == pytest.approx(1, abs=1e-12)
    assert all(a < b for a, b in pairwise(betas))


def test_the_adaptive_schedule_takes_more_temperatures_where_more_is_asked_of_it():
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 20)
    guide = exact.ScaledPosterior(story, 2.0, shift=0.5)
    counts = []
    for wanted in (0.5, 0.9, 0.99):
        settings = Annealing(temperature_schedule="adaptive", conditional_ess=wanted)
        found = ais(story, rows, guide=guide, local_steps=0, annealing=settings, progress=True)
        counts.append(found.num_temperatures)
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "middle"}, "expected start among guide, prior; got 'middle'"),
        (
            {"temperature_schedule": "magic"},
            "expected temperature_schedule among auto.*'magic'",
        ),
        ({"num_temperatures": 0}, "num_temperatures of at least 1"),
        ({"num_chains": 0}, "num_chains of at least 1"),
        ({"conditional_ess": 1.0}, "conditional_ess between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Annealing(**options)


def test_an_endless_adaptive_schedule_is_refused(monkeypatch):
    monkeypatch.setattr("ppvae.inference.pilot_run.MAX_TEMPERATURES", 20)
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 3)
    settings = Annealing(start="prior", temperature_schedule="adaptive", conditional_ess=0.9999)
    monkeypatch.setattr("ppvae.inference.pilot_run.BISECTIONS", 10)
    with pytest.raises(ValueError, match="expected at most 20 temperatures"):
        ais(story, rows, annealing=settings)
