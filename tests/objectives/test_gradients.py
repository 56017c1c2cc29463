"""Each estimator's gradient against closed forms and quadrature, on a linear-Gaussian story."""

import exact
import pytest
import stories
import torch
from stories import CASES
from torch import nn

import ppvae
from ppvae import objectives
from ppvae.guides import SemiAmortized
from ppvae.objectives.gradients import (
    gradient_of,
    measure_gradients,
    parameter_groups,
    train_baseline,
)
from ppvae.story import local_params, seeded_eval

COPIES, REPEATS = 400, 25

UNBIASED = {
    "trace_elbo": ("trace_elbo", {}),
    "mean_field_elbo": ("mean_field_elbo", {}),
    "stl": ("stl", {}),
    "score_function, no baseline": ("score_function", {"baseline": "none"}),
    "score_function, average": ("score_function", {"baseline": "average"}),
    "score_function, neural": ("score_function", {"baseline": "neural"}),
    "free_bits, no floor": ("free_bits", {"floor": 0.0}),
    "renyi, alpha 1": ("renyi", {"alpha": 1.0}),
    "iwae, one particle": ("iwae", {}),
    "dreg, one particle": ("dreg", {}),
}
TIGHTER = {
    "iwae": ("iwae", {}),
    "dreg": ("dreg", {}),
    "vimco": ("vimco", {}),
    "renyi, alpha 0": ("renyi", {"alpha": 0.0}),
}


@pytest.fixture(scope="module")
def pair():
    """One latent number, a linear encoder off the posterior, and each of three rows many times."""
    story = exact.linear_gaussian(3, 1)
    rows = exact.rows_of(story, 3)
    torch.manual_seed(2)
    guide = ppvae.guides.build("mean_field", story, rows, encoder=nn.Identity())
    return story, guide, rows, {"x": rows["x"].repeat(COPIES, 1)}


def z_scores(pair, name, options, bound, kl_weight, num_particles):
    """Distance of the mean gradient from the exact one, in standard errors, every number of it."""
    story, guide, rows, batch = pair
    groups = parameter_groups(story, guide)
    objective = objectives.build(
        name, story, guide, batch, num_particles=num_particles, beta=kl_weight, **options
    )
    with local_params(story, guide, objective), seeded_eval(0, story, guide):
        train_baseline(objective, batch)
        measured = measure_gradients(objective, batch, groups, REPEATS)
        right = gradient_of(-bound(story, guide, rows, kl_weight).mean(), groups)
    found = []
    for group, mean in measured.mean.items():
        error = (measured.variance[group] / REPEATS).sqrt()
        exactly = error < 1e-12  # a gradient without noise
        assert torch.allclose(mean[exactly], right[group][exactly], atol=1e-10)
        found.append(((mean - right[group]) / error)[~exactly])
    return torch.cat(found)


@pytest.mark.parametrize("kl_weight", [1.0, 0.4])
@pytest.mark.parametrize("case", UNBIASED)
def test_mean_gradient_of_the_elbo_is_the_analytic_one(pair, case, kl_weight):
    z = z_scores(pair, *UNBIASED[case], exact.elbo, kl_weight, 1)
    assert len(z) >= 8 and float(z.abs().max()) < 4


@pytest.mark.parametrize("kl_weight", [1.0, 0.4])
@pytest.mark.parametrize("case", TIGHTER)
def test_mean_gradient_of_the_bound_of_two_particles_is_that_of_quadrature(pair, case, kl_weight):
    z = z_scores(pair, *TIGHTER[case], exact.iwelbo, kl_weight, 2)
    assert len(z) >= 8 and float(z.abs().max()) < 4


@pytest.mark.parametrize(
    ("name", "bound", "num_particles"),
    [("trace_elbo", exact.elbo, 1), ("stl", exact.elbo, 1), ("iwae", exact.iwelbo, 2),
     ("dreg", exact.iwelbo, 2)],
)  # fmt: skip
def test_so_it_is_where_the_guide_climbs_the_story_on_the_way(pair, name, bound, num_particles):
    story, guide, rows, batch = pair
    semi = SemiAmortized.of(story, guide, num_steps=2, step_size=0.3, backprop=True)
    z = z_scores((story, semi, rows, batch), name, {}, bound, 1.0, num_particles)
    assert len(z) >= 8 and float(z.abs().max()) < 4


def test_a_wrong_gradient_is_seen(pair):
    """The same measurement tells reweighted wake-sleep's encoder step from the gradient of the
    bound."""
    story, guide, rows, batch = pair
    groups = parameter_groups(story, guide)
    objective = objectives.build("reweighted_wake_sleep", story, guide, batch, num_particles=2)
    with local_params(story, guide), seeded_eval(0, story, guide):
        measured = measure_gradients(objective, batch, groups, REPEATS)
        right = gradient_of(-exact.iwelbo(story, guide, rows).mean(), groups)
    z = {
        k: (m - right[k]) / (measured.variance[k] / REPEATS).sqrt()
        for k, m in measured.mean.items()
    }
    assert float(z["heads"].abs().max()) > 10 and float(z["story"].abs().max()) < 4


@pytest.mark.parametrize("case", ["deep_plates", "global_plate", "hierarchical"])
@pytest.mark.parametrize(
    ("name", "right"),
    [("stl", "trace_elbo"), ("score_function", "trace_elbo"), ("dreg", "iwae"), ("vimco", "iwae")],
)
def test_estimators_of_one_bound_agree_with_inner_plates_and_global_sites(case, name, right):
    story = CASES[case].story()
    rows = stories.rows_of(CASES[case], story, 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = ppvae.guides.build("mean_field", story, rows, hidden=(4,))
    batch = {k: v.repeat(50, *(1,) * (v.dim() - 1)) for k, v in rows.items()}
    groups = parameter_groups(story, guide)
    found = []
    for which in (name, right):
        objective = objectives.build(which, story, guide, batch, num_particles=3)
        with local_params(story, guide), seeded_eval(len(found), story, guide):
            train_baseline(objective, batch)
            found.append(measure_gradients(objective, batch, groups, 100))
    for group in groups:
        one, two = (f.mean[group] for f in found)
        error = sum(f.variance[group] / 100 for f in found).sqrt()
        moved = error > 0
        assert torch.equal(one[~moved], two[~moved])
        assert float(((one - two) / error)[moved].abs().max()) < 4, group


@pytest.mark.parametrize(("name", "num_particles"), [("stl", 1), ("stl", 3), ("dreg", 5)])
def test_the_guide_feels_nothing_at_the_exact_posterior(name, num_particles):
    story = exact.linear_gaussian()
    batch = exact.rows_of(story, 6)
    guide = exact.at_posterior(story, batch)
    noise = {}
    for which in (name, "iwae"):
        objective = objectives.build(which, story, guide, batch, num_particles=num_particles)
        with local_params(story, guide), seeded_eval(0, story, guide):
            (noise[which],) = torch.autograd.grad(objective(batch), [guide.to_parameters.weight])
    assert float(noise[name].abs().max()) < 1e-12
    assert float(noise["iwae"].abs().max()) > 1e-3  # the same draws' plain gradient is noise


def test_encoder_signal_falls_with_particles_in_iwae_and_not_in_dreg():
    """As the square root of K, down and up, near the posterior (Rainforth et al. 2018; Tucker et
    al. 2019)."""
    story = exact.linear_gaussian(4, 2)
    rows = exact.rows_of(story, 5)
    guide = exact.at_posterior(story, rows)
    with torch.no_grad():
        guide.to_parameters.bias.add_(0.1)
    batch = {"x": rows["x"].repeat(60, 1)}
    groups = {"heads": list(guide.to_parameters.parameters())}
    snr = {"iwae": [], "dreg": []}
    for name, ratios in snr.items():
        for num_particles in (1, 10, 100):
            objective = objectives.build(name, story, guide, batch, num_particles=num_particles)
            with local_params(story, guide), seeded_eval(0, story, guide):
                ratios.append(measure_gradients(objective, batch, groups, 100).snr("heads"))
    for one, two, three in (snr["iwae"][::-1], snr["dreg"]):
        assert one < two < three
    assert snr["iwae"][1] / snr["iwae"][2] == pytest.approx(10**0.5, rel=0.3)
    assert snr["dreg"][2] / snr["dreg"][1] == pytest.approx(10**0.5, rel=0.3)
