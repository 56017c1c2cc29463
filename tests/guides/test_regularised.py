r"""Regularised amortization: noise on the encoder's inputs, and weights of a held norm."""

import pyro
import pytest
import torch
from built import built
from discrete_stories import DRAWS, Codes
from discrete_stories import made as made_discrete
from exact import linear_gaussian, rows_of
from families import CONTINUOUS
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import ppvae
from ppvae import guides
from ppvae.problem import Problem
from ppvae.story import observe


def test_the_noise_has_its_width_in_training_and_is_gone_after_it():
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)).double()
    story = linear_gaussian(data_dim=3, latent_dim=1)
    guide = guides.build("mean_field", story, x, encoder=nn.Identity(), denoising=0.3)
    torch.manual_seed(0)
    noise = guide.features({"x": x}) - guide.eval().features({"x": x})
    assert torch.equal(guide.features({"x": x}), guide.features({"x": x}))
    assert abs(float(noise.std()) - 0.3) < 4 * 0.3 / (2 * noise.numel()) ** 0.5
    assert abs(float(noise.mean())) < 4 * 0.3 / noise.numel() ** 0.5


def test_noise_does_not_touch_missing_entries():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    x[::2, 1] = torch.nan
    story = linear_gaussian(data_dim=3, latent_dim=1)
    guide = guides.build("mean_field", story, x, encoder=nn.Identity(), denoising=0.3)
    seen = guide.features({"x": x})
    assert bool((seen[::2, 1] == 0).all()) and bool((seen[1::2, 1] != 0).all())
    assert torch.equal(seen[:, 3:], torch.isnan(x).double())


def test_a_denoised_linear_encoder_is_the_ridge_regression_of_the_posterior_mean():
    story = linear_gaussian(data_dim=3, latent_dim=1)
    story.requires_grad_(False)
    batch = rows_of(story, 1000)
    guide = guides.build("mean_field", story, batch, encoder=nn.Identity(), denoising=0.8)
    ppvae.fit(
        story, guide, batch, epochs=60, batch_size=100, lr=0.02, num_particles=8, progress=False
    )
    seen, mean = guide.features({"x": batch["x"]}), story.posterior(batch).loc[:, 0]
    covariance = seen.T @ seen / len(seen)
    ridge = covariance + 0.8**2 * torch.eye(3).double()
    expected = torch.linalg.solve(ridge, seen.T @ (mean - mean.mean()) / len(seen))
    plain = torch.linalg.solve(covariance, seen.T @ (mean - mean.mean()) / len(seen))
    found = guide.to_parameters.weight[0].detach()
    assert float((found - expected).abs().max()) < 0.03 < float((plain - expected).abs().max()) / 3


@pytest.mark.parametrize("shape", [(5,), (1, 8, 8)])
def test_every_unit_of_the_encoder_keeps_its_norm_through_training(shape):
    x = torch.rand(40, *shape, generator=torch.Generator().manual_seed(0))
    story = ppvae.stories.load("factor_analysis", {"x": x.flatten(1)})
    given = x.flatten(1)
    encoder = (
        None
        if len(shape) == 1
        else nn.Sequential(nn.Unflatten(1, shape), nn.Conv2d(1, 4, 3), nn.Flatten())
    )
    guide = guides.build("mean_field", story, given, encoder=encoder, hidden=(16,), weight_norm=0.7)
    before = [p.detach().clone() for p in guide.parameters()]
    ppvae.fit(story, guide, given, epochs=2, batch_size=10, progress=False)
    assert not any(torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))
    layers = [m for m in guide.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert len(layers) == 2
    for layer in layers:
        norms = layer.weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, torch.full_like(norms, 0.7))


def test_answers_move_no_more_than_the_norm_allows():
    story = linear_gaussian()
    batch = rows_of(story, 200)
    guide = guides.build("mean_field", story, batch, encoder=nn.Identity(), weight_norm=0.1)
    ppvae.fit(story, guide, batch, epochs=5, lr=0.1, progress=False)
    loc, seen = guide.parameters_of(batch)["loc"], guide.features(batch)
    distance = torch.cdist(seen, seen).unsqueeze(-1)
    assert bool(((loc.unsqueeze(0) - loc.unsqueeze(1)).abs() <= 0.1 * distance + 1e-9).all())


@pytest.mark.parametrize("family", [*CONTINUOUS, *DRAWS])
def test_every_family_takes_both(family):
    if family in DRAWS:
        story, batch, _ = made_discrete(family, Codes())
    else:
        story, batch, _ = built("two_sites", "mean_field")
    options = {"hidden": (16,), "denoising": 0.2, "weight_norm": 1.0}
    guide, other = (guides.build(family, story, batch, **options) for _ in range(2))
    assert bool(torch.isfinite(Problem.of(story, guide, batch).score(2).log_weights).all())
    other.load_state_dict(guide.state_dict())
    first, second = (g.eval().parameters_of(batch) for g in (guide, other))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_pyros_svi_trains_the_directions(empty_store):
    story = linear_gaussian()
    batch = rows_of(story, 20)
    guide = guides.build("full_rank", story, batch, hidden=(8,), weight_norm=1.0)
    before = [p.detach().clone() for p in guide.parameters()]
    svi = SVI(observe(story), guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(3):
        svi.step(batch)
    assert not any(torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))
    norms = guide.to_parameters.weight.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoising": -0.1}, "denoising of at least 0, got -0.1"),
        ({"weight_norm": 0.0}, "a weight_norm above 0, got 0.0"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        built("two_sites", "mean_field", **options)
