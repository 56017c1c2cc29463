r"""Evidence estimates against a story with closed forms."""

import math

import exact
import pytest
import torch

import ppvae
from ppvae.inference import importance_evidence
from ppvae.stories import load as load_story


def test_exact_guide_has_constant_weights_equal_to_the_log_evidence() -> None:
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 20)
    log_w = ppvae.log_weights(story, exact.ScaledPosterior(story), rows, 50, seed=0)
    assert float((log_w - story.log_evidence(rows)).abs().max()) < 1e-10


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_elbo_of_a_scaled_posterior_misses_the_evidence_by_its_divergence(factor: float) -> None:
    story = exact.linear_gaussian(latent_dim=2)
    rows = exact.rows_of(story, 30)
    elbo = ppvae.elbo(story, exact.ScaledPosterior(story, factor), rows, num_particles=2000)
    gap = (factor**2 - 1 - 2 * math.log(factor)) * 2 / 2
    error = elbo.value + gap - story.log_evidence(rows)
    assert bool((error.abs() < 4.5 * elbo.std_error).all())


def test_one_particle_iwelbo_is_the_elbo_and_more_particles_never_lower_it() -> None:
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 40)
    guide = exact.ScaledPosterior(story, 1.6)
    elbo = ppvae.elbo(story, guide, rows, num_particles=400, seed=0)
    bounds = {
        k: ppvae.iwelbo(story, guide, rows, num_particles=k, num_repeats=400 // min(k, 10), seed=k)
        for k in (1, 10, 100)
    }
    one = (bounds[1] - elbo).mean()
    assert abs(float(one.value)) < 4 * float(one.std_error)
    for low, high in ((1, 10), (10, 100)):
        gain = (bounds[high] - bounds[low]).mean()
        assert float(gain.value) > -4 * float(gain.std_error)


@pytest.mark.parametrize("method", ["iwae", "ais"])
@pytest.mark.parametrize("name", ["mean_field", "full_rank", "iaf"])
def test_estimators_agree_with_the_closed_form(method: str, name: str) -> None:
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 25)
    guide = ppvae.guides.build(name, story, rows)
    found = ppvae.log_evidence(
        story,
        rows,
        method=method,
        guide=guide,
        annealing=ppvae.Annealing(num_temperatures=20),
        num_particles=2000,
    )
    error = found - ppvae.Estimate.exact(story.log_evidence(rows).detach())
    combined = float(error.std_error.square().sum().sqrt()) / len(rows["x"])
    assert abs(float(error.value.mean())) < 4 * combined
    assert float(error.value.abs().max()) < 0.2


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_quadrature_is_exact_for_a_smooth_posterior(latent_dim: int) -> None:
    story = exact.linear_gaussian(6, latent_dim)
    rows = exact.rows_of(story, 4)
    guide = exact.ScaledPosterior(story, 2.0, shift=0.3).double()
    found = ppvae.log_evidence(story, rows, method="quadrature", guide=guide)
    error = found.value - story.log_evidence(rows)
    assert float(error.detach().abs().max()) < 1e-8


def test_quadrature_refuses_many_latent_numbers() -> None:
    story = exact.linear_gaussian(6, 4)
    rows = exact.rows_of(story, 4)
    with pytest.raises(ValueError, match="at most 3 latent numbers"):
        ppvae.log_evidence(story, rows, method="quadrature", guide=exact.ScaledPosterior(story))


def test_exact_needs_a_closed_form_and_others_a_guide() -> None:
    rows = ppvae.data.load("digits").head(4)
    story = load_story("vae", rows.batch())
    with pytest.raises(ValueError, match="to define log_evidence"):
        ppvae.log_evidence(story, rows, method="exact")
    with pytest.raises(ValueError, match="needs a guide"):
        ppvae.log_evidence(story, rows, method="ais")
    with pytest.raises(ValueError, match="auto, best, exact, iwae, ais, quadrature"):
        ppvae.log_evidence(story, rows, method="magic")


def test_weights_that_are_all_zero_are_an_error() -> None:
    log_w = torch.zeros(50, 3)
    log_w[:, 1] = -torch.inf
    with pytest.raises(ValueError, match="1 of 3 rows"):
        importance_evidence(log_w)
