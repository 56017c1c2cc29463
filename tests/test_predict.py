r"""Predictions against the closed forms of factor analysis."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from labelled import Labelled, LabelledGuide
from pyro.nn import PyroModule
from torch import nn

from models.factor_analysis import FactorAnalysis
from ppvae.guides import build
from ppvae.predict import (
    embed,
    generate,
    interpolate,
    latent_traversals,
    reconstruct,
    traverse,
)
from ppvae.story import adopt, simulate

NUM_ROWS = 20


class ExactGuide(PyroModule):
    """The exact posterior of factor analysis."""

    def __init__(self, story):
        super().__init__(name="guide")
        self.posterior = story.posterior

    def forward(self, batch):
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("z", self.posterior(batch))


class Grouped(PyroModule):
    """A global level, and two measurements of each row in an inner plate left of the rows."""

    def forward(self, n):
        level = pyro.sample("level", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("sensors", 2, dim=-2), pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(level, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z))


class GroupedGuide(PyroModule):
    def forward(self, batch):
        pyro.sample("level", dist.Normal(torch.tensor(3.0), 0.1))
        with pyro.plate("sensors", 2, dim=-2), pyro.plate("data", len(batch["x"]), dim=-1):
            pyro.sample("z", dist.Normal(5 * batch["x"].T, 0.1))


def adopted_pair(loadings, x):
    """A plain Pyro pair whose guide answers with the first two numbers of a row, adopted."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings.T, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1e-9).to_event(1))

    return adopt(model, guide, example=x)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    story = FactorAnalysis(data_dim=4, latent_dim=2).double()
    return story, ExactGuide(story), simulate(story, NUM_ROWS, seed=1)["x"]


# --- generate ---------------------------------------------------------------


def test_generated_rows_are_draws_of_every_site(pair):
    rows = generate(pair[0], 16, seed=3)
    assert {k: tuple(v.shape) for k, v in rows.items()} == {"z": (16, 2), "x": (16, 4)}
    assert torch.equal(rows["x"], generate(pair[0], 16, seed=3)["x"])
    assert not torch.equal(rows["x"], generate(pair[0], 16, seed=4)["x"])


def test_the_mean_of_a_generated_row_is_its_decoded_cause(pair):
    story = pair[0]
    rows = generate(story, 16, seed=3, mean=True)
    assert torch.allclose(rows["x"], rows["z"] @ story.loadings.T + story.offset)
    assert torch.equal(rows["z"], generate(story, 16, seed=3)["z"])


def test_means_of_inner_plates_come_rows_first():
    rows = generate(Grouped(), 5, seed=0, mean=True)
    assert rows["level"].shape == ()
    assert torch.allclose(rows["x"], torch.sigmoid(rows["z"])) and rows["x"].shape == (5, 2)


def test_generating_leaves_the_global_generator_alone(pair):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    generate(pair[0], 3, seed=1, mean=True)
    assert torch.equal(before, torch.random.get_rng_state())


class Label(PyroModule):
    def forward(self, n):
        with pyro.plate("data", n):
            pyro.sample("y", dist.Categorical(torch.ones(3)))


def test_no_rows_and_the_mean_of_a_category_are_refused(pair):
    with pytest.raises(ValueError, match="at least one row"):
        generate(pair[0], 0, mean=True)
    with pytest.raises(ValueError, match=r"site 'y'.*got Categorical; generate with mean=False"):
        generate(Label(), 3, mean=True)


# --- embed ------------------------------------------------------------------


def test_embeddings_are_posterior_means_with_an_honest_error(pair):
    story, guide, x = pair
    found = embed(story, guide, x, num_particles=4000)["z"]
    posterior = story.posterior({"x": x})
    assert found.value.shape == found.std_error.shape == (NUM_ROWS, 2)
    assert bool(((found.value - posterior.mean).abs() < 4 * found.std_error).all())
    expected = (posterior.variance / 4000).sqrt()
    assert torch.allclose(found.std_error, expected, rtol=0.1)


def test_embedding_in_pieces_equals_embedding_at_once(pair, monkeypatch):
    story, guide, x = pair
    whole = embed(story, guide, x[:1], num_particles=64)["z"]
    monkeypatch.setattr("ppvae.data.chunks.CHUNK_NUMBERS", 256 * 32)
    pieces = embed(story, guide, x[:1], num_particles=64)["z"]
    assert torch.allclose(whole.value, pieces.value) and torch.allclose(
        whole.std_error, pieces.std_error
    )


def test_global_sites_and_inner_plates_are_embedded():
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    found = embed(Grouped(), GroupedGuide(), x, num_particles=2000)
    assert abs(float(found["level"].value) - 3) < 4 * float(found["level"].std_error)
    assert bool(((found["z"].value - 5 * x).abs() < 4 * found["z"].std_error).all())


# --- reconstruct ------------------------------------------------------------


def test_reconstructions_are_the_decoded_posterior_mean(pair):
    story, guide, x = pair
    found = reconstruct(story, guide, x, num_particles=20_000)["x"]
    posterior = story.posterior({"x": x})
    exact = posterior.mean @ story.loadings.T + story.offset
    spread = (story.loadings @ posterior.covariance_matrix @ story.loadings.T).diagonal(0, -2, -1)
    assert bool(((found - exact).abs() < 4 * (spread / 20_000).sqrt()).all())


def test_a_missing_entry_is_reconstructed(pair):
    story, _, x = pair
    x = x.clone()
    x[0, 1] = torch.nan

    class Filled(ExactGuide):
        def forward(self, batch):
            super().forward({"x": torch.nan_to_num(batch["x"])})

    found = reconstruct(story, Filled(story), x, num_particles=2)["x"]
    assert found.shape == x.shape and bool(found.isfinite().all())


def test_reconstructions_of_inner_plates_come_rows_first():
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    found = reconstruct(Grouped(), GroupedGuide(), x, num_particles=50)["x"]
    assert torch.allclose(found, torch.sigmoid(5 * x), atol=0.02)


def test_labels_can_be_held_at_their_data_and_are_refused_otherwise():
    data = {"x": torch.tensor([0.3, 10.2, 19.0]), "y": torch.tensor([0.0, 1.0, 2.0])}
    with pytest.raises(ValueError, match=r"site 'y'.*Categorical; hold it.*given=\['y'\]"):
        reconstruct(Labelled(), LabelledGuide(), data)
    found = reconstruct(Labelled(), LabelledGuide(), data, given=["y"])
    assert set(found) == {"x"}
    assert torch.allclose(found["x"], 10 * data["y"], atol=0.01)
    with pytest.raises(ValueError, match=r"expected `given` among \['x', 'y'\], got \['z'\]"):
        reconstruct(Labelled(), LabelledGuide(), data, given=["z"])


def test_an_adopted_pair_is_reconstructed_from_its_latents_alone(pair):
    x = pair[2].float()  # a pair without parameters is taken in single precision
    loadings = pair[0].loadings.detach().float()
    adopted = adopted_pair(loadings, x)
    found = reconstruct(*adopted, x)["x"]
    assert torch.allclose(found, x[:, :2] @ loadings.T, atol=1e-6)
    assert torch.allclose(embed(*adopted, x)["z"].value, x[:, :2])


class Gated(PyroModule):
    """Counts that are zero with a learned probability: the mean of the distribution is computed
    from parameters."""

    def __init__(self):
        super().__init__()
        self.gate, self.rate = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(2.0))

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            rate = self.rate * z.exp()
            pyro.sample("x", dist.ZeroInflatedPoisson(rate, gate=self.gate))


def test_no_result_carries_gradients():
    story, x = Gated(), torch.tensor([0.0, 1.0, 4.0])
    guide = build("mean_field", story, x, hidden=(4,))
    z = torch.zeros(3, requires_grad=True)
    results = (
        generate(story, 3), generate(story, 3, mean=True), traverse(story, {"z": z}),
        reconstruct(story, guide, x), interpolate(story, guide, x, x.flip(0)),
        latent_traversals(story, guide, x).latents, embed(story, guide, x)["z"].to_named("z"),
    )  # fmt: skip
    for found in results:
        assert not any(value.requires_grad for value in found.values())
    torch.testing.assert_close(results[2]["x"], torch.full((3,), 0.7 * 2.0))


def test_no_particles_is_an_error(pair):
    for verb in (embed, reconstruct):
        with pytest.raises(ValueError, match="at least one particle, got num_particles=0"):
            verb(*pair, num_particles=0)
