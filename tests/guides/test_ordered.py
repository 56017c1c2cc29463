r"""Guides that follow the story's own order of sites: structured, ladder and bidirectional."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from built import seeded_guide
from pyro.nn import PyroModule
from stories import CASES, rows_of

import ppvae
from ppvae.guides.bidirectional import up_and_down
from ppvae.problem import Problem


class LinearChain(PyroModule):
    """Three levels of single numbers, linear and Gaussian; so is the posterior, correlated."""

    def __init__(self):
        super().__init__()
        self.register_buffer("one", torch.ones(()).double())

    def forward(self, n):
        with pyro.plate("data", n):
            top = pyro.sample("top", dist.Normal(0.0 * self.one, 1.0))
            low = pyro.sample("low", dist.Normal(1.5 * top, 0.5))
            pyro.sample("x", dist.Normal(low, 0.3))

    def log_evidence(self, batch):
        return dist.Normal(0.0 * self.one, (1.5**2 + 0.5**2 + 0.3**2) ** 0.5).log_prob(batch["x"])


# Posterior precision Λ = [[10, -6], [-6, 136/9]]: a diagonal one loses log(Λ_11 Λ_22 / det Λ) / 2.
MEAN_FIELD_GAP = 0.5 * math.log(10 * (136 / 9) / (10 * (136 / 9) - 36))


@pytest.mark.parametrize(
    ("family", "expected"),
    [("structured", 0.0), ("ladder", 0.0), ("bidirectional", 0.0), ("mean_field", MEAN_FIELD_GAP)],
)
def test_guides_in_the_storys_order_are_exact_on_a_linear_chain(family, expected):
    story = LinearChain()
    x = ppvae.simulate(story, 20, seed=0)["x"]
    local = seeded_guide(family, story, x).local({"x": x})
    local.optimize(story)
    found = ppvae.elbo(story, local, x, num_particles=500)
    gap = (story.log_evidence({"x": x}) - found.value).mean()
    error = float(found.mean().std_error)
    assert abs(float(gap) - expected) < 0.004 + 4 * error


def test_a_reversed_order_is_as_exact():
    story = LinearChain()
    x = ppvae.simulate(story, 20, seed=0)["x"]
    guide = ppvae.guides.build("structured", story, x, hidden=(16,), order="reverse")
    assert list(guide.flat.slices) == ["top", "low"]
    local = guide.local({"x": x})
    local.optimize(story)
    gap = story.log_evidence({"x": x}) - ppvae.elbo(story, local, x, num_particles=500).value
    assert abs(float(gap.mean())) < 0.01
    with pytest.raises(ValueError, match="order among story, reverse; got 'down'"):
        ppvae.guides.build("structured", story, x, order="down")


def test_a_ladder_without_evidence_is_the_prior():
    story = LinearChain()
    x = ppvae.simulate(story, 5, seed=0)["x"]
    guide = ppvae.guides.build("ladder", story, x)
    with torch.no_grad():
        guide.to_parameters.weight.zero_()
        guide.to_parameters.bias.copy_(torch.tensor([0.0, 0.0, 1e4, 1e4]))  # locations, widths
        scores = Problem.of(story, guide, {"x": x}).score(50)
    prior = dist.Normal(0.0, 1.0).log_prob(scores.latents["top"])
    prior = prior + dist.Normal(1.5 * scores.latents["top"], 0.5).log_prob(scores.latents["low"])
    torch.testing.assert_close(scores.log_guide, prior, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scalar", r"at least two latent sites for ladder.*\['z'\]; use structured or mean_field"),
        ("global", r"at least two latent sites for ladder.*'level'"),
    ],
)
def test_a_story_without_a_ladder_is_refused(name, message):
    story = CASES[name].story()
    with pytest.raises(ValueError, match=message):
        ppvae.guides.build("ladder", story, rows_of(CASES[name], story))


class LabelFirst(PyroModule):
    def forward(self, n, dose=None):
        with pyro.plate("data", n):
            y = pyro.sample("y", dist.Normal(0.0, 1.0))
            a = pyro.sample("a", dist.Normal(y, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0))


def test_a_ladder_cannot_stand_on_what_is_observed():
    data = {"x": torch.zeros(5), "y": torch.zeros(5)}
    with pytest.raises(ValueError, match=r"depend on no observed one.*\['y'\]; use structured"):
        ppvae.guides.build("ladder", LabelFirst(), data)
    ppvae.guides.build("structured", LabelFirst(), data)


def test_layers_are_read_from_the_lowest_up_and_from_the_top_down():
    top, middle, low = layers = [slice(0, 2), slice(2, 5), slice(5, 9)]
    halves = up_and_down(layers, 0.5)
    assert halves == [slice(5, 7), slice(2, 4), top, slice(4, 5), slice(7, 9)]
    assert up_and_down(layers, 0.0) == [top, middle, low]
    assert up_and_down(layers, 1.0) == [low, middle, top]
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match="share between 0 and 1 for bidirectional, got"):
            ppvae.guides.build("bidirectional", LinearChain(), torch.zeros(5), share=share)


class Layers(PyroModule):
    """Three layers of two, three and four numbers, each moved by the ones above it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.zeros(4).double())

    def forward(self, n):
        with pyro.plate("data", n):
            total = self.zero[:1]
            for name, size in (("z_3", 2), ("z_2", 3), ("z_1", 4)):
                z = pyro.sample(name, dist.Normal(self.zero[:size] + total, 1.0).to_event(1))
                total = total + z.sum(-1, keepdim=True)
            pyro.sample("x", dist.Normal(total + self.zero, 1.0).to_event(1))


def test_what_is_read_on_the_way_up_does_not_see_what_is_above():
    story = Layers()
    x = ppvae.simulate(story, 3, seed=0)["x"]
    guide = ppvae.guides.build("bidirectional", story, x, hidden=(16,))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in guide.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    q = guide.posterior({"x": x[:1]})
    eps = torch.randn(9, dtype=torch.float64)
    moved = torch.func.jacfwd(lambda e: q.push(e[None])[0][0])(eps) != 0  # (u, eps)
    turn = {"up 1": [5, 6], "up 2": [2, 3], "top": [0, 1], "down 2": [4], "down 1": [7, 8]}
    before = []
    for name, part in turn.items():
        seen = moved[part].any(0).nonzero().flatten().tolist()
        assert sorted(seen) == sorted([*before, *part]), name
        assert bool(moved[part][:, before].all()), name
        before += part
