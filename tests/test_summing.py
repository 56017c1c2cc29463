r"""Finite discrete sites are summed over exactly, wherever a story is scored."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import ppvae
from ppvae.problem import Problem
from ppvae.story import Configurations, LogJoint, log_joint, trace_sites


class GaussianMixture(PyroModule):
    """Three clusters in the plane; `coin` and `pair` are further discrete causes."""

    def __init__(self, extra=False):
        super().__init__()
        self.extra = extra
        self.register_buffer("log_prior", torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log())
        self.loc = nn.Parameter(torch.tensor([[-2.0, 0.0], [0.5, 1.0], [2.0, -1.0]]).double())

    def forward(self, n):
        with pyro.plate("data", n):
            k = pyro.sample("k", dist.Categorical(logits=self.log_prior))
            loc = self.loc[k]
            if self.extra:
                coin = pyro.sample("coin", dist.Bernoulli(self.log_prior[0].exp()))
                pair = pyro.sample("pair", dist.Binomial(2, self.log_prior[:2].exp()).to_event(1))
                loc = loc + coin.unsqueeze(-1) + pair
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1))


class LabelledVAE(PyroModule):
    """A label and a style; M2 in small."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.decoder = nn.Linear(5, 4).double()
        self.register_buffer("zero", torch.zeros(2).double())

    def forward(self, n):
        with pyro.plate("data", n):
            y = pyro.sample("y", dist.OneHotCategorical(logits=self.zero.sum() + torch.arange(3.0)))
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            loc = self.decoder(torch.cat([y.to(z), z], -1))
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1))


def by_hand(story, x):
    """log p(k, x), `(3, B)`."""
    each = dist.Normal(story.loc[:, None], 1.0).to_event(1).log_prob(x)
    return story.log_prior[:, None] + each


def test_a_gaussian_mixture_is_summed_to_its_closed_form():
    story = GaussianMixture()
    x = ppvae.simulate(story, 40, seed=0)["x"]
    torch.testing.assert_close(
        log_joint(story, {"x": x}, {})[0], by_hand(story, x).logsumexp(0), rtol=0, atol=1e-12
    )


def test_several_sites_are_summed_over_together():
    story = GaussianMixture(extra=True)
    x = ppvae.simulate(story, 7, seed=0)["x"]
    total = []
    for k in range(3):
        for coin in (0.0, 1.0):
            for a in range(3):
                for b in range(3):
                    pair = torch.tensor([a, b]).double().expand(1, 7, 2)
                    given = {"k": torch.full((1, 7), k), "coin": torch.full((1, 7), coin).double()}
                    total.append(log_joint(story, {"x": x}, given | {"pair": pair})[0])
    expected = torch.stack(total).logsumexp(0)
    torch.testing.assert_close(log_joint(story, {"x": x}, {})[0], expected, rtol=0, atol=1e-12)


def test_a_site_that_is_given_is_not_summed_over():
    story = GaussianMixture()
    x = ppvae.simulate(story, 5, seed=0)["x"]
    for k in range(3):
        given = log_joint(story, {"x": x}, {"k": torch.full((1, 5), k)})[0]
        torch.testing.assert_close(given, by_hand(story, x)[k])


def test_the_gradient_of_the_sum_is_that_of_the_closed_form():
    story = GaussianMixture()
    x = ppvae.simulate(story, 20, seed=0)["x"]
    found = torch.autograd.grad(log_joint(story, {"x": x}, {}).sum(), story.loc)[0]
    expected = torch.autograd.grad(by_hand(story, x).logsumexp(0).sum(), story.loc)[0]
    torch.testing.assert_close(found, expected)


def test_sites_left_out_are_drawn_from_their_exact_conditional():
    story, num_draws = GaussianMixture(), 4000
    x = torch.zeros(num_draws, 2).double()
    torch.manual_seed(0)
    latents, log_conditional = LogJoint(story, {"x": x}).complete({})
    truth = by_hand(story, x).softmax(0)[:, 0]
    share = nn.functional.one_hot(latents["k"][0], 3).double().mean(0)
    assert bool(((share - truth).abs() < 4 * (truth * (1 - truth) / num_draws).sqrt()).all())
    torch.testing.assert_close(log_conditional[0], truth.log()[latents["k"][0]])


def test_blocks_change_no_number(monkeypatch):
    story = GaussianMixture(extra=True)
    x = ppvae.simulate(story, 6, seed=0)["x"]
    together = log_joint(story, {"x": x}, {})
    monkeypatch.setattr("ppvae.story.density.BLOCK_NUMBERS", 6 * 256 * 5)
    torch.testing.assert_close(log_joint(story, {"x": x}, {}), together)


@pytest.fixture(scope="module")
def labelled():
    story = LabelledVAE()
    rows = ppvae.simulate(story, 60, seed=0)
    y = rows["y"].double()
    some = y.clone()
    some[::3] = torch.nan
    return story, rows["x"], y, some


def test_rows_without_their_label_are_summed_and_the_others_are_not(labelled):
    story, x, y, some = labelled
    torch.manual_seed(0)
    z = torch.randn(4, 60, 2).double()
    found = log_joint(story, {"x": x, "y": some}, {"z": z})
    known = log_joint(story, {"x": x, "y": y}, {"z": z})
    unknown = log_joint(story, {"x": x}, {"z": z})
    missing = torch.isnan(some[:, 0])
    torch.testing.assert_close(found, torch.where(missing, unknown, known))


def test_missing_labels_are_drawn_and_known_ones_come_back(labelled):
    story, x, y, some = labelled
    data = {"x": x, "y": some}
    ppvae.check_story(story, data)
    guide = ppvae.guides.build("mean_field", story, data, hidden=(8,)).local(data)
    guide.optimize(story, max_steps=300)
    chances = ppvae.embed(story, guide, data)["y"].value
    known = ~torch.isnan(some[:, 0])
    assert torch.equal(chances[known], y[known])
    # Bayes' rule by brute force: p(y | x) by many draws of the prior.
    z = torch.randn(3000, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    each = []
    for k in range(3):
        label = nn.functional.one_hot(torch.tensor(k), 3).double().expand(3000, 60, 3)
        latents = {"z": z.expand(-1, 60, -1), "y": label}
        prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        each.append((log_joint(story, {"x": x}, latents) - prior).logsumexp(0))
    truth = torch.stack(each, -1).softmax(-1)
    assert float((chances - truth)[~known].abs().mean()) < 0.06


def test_a_guide_may_leave_out_what_can_be_summed(labelled):
    story, x, _, _ = labelled
    guide = ppvae.guides.build("mean_field", story, x, hidden=(8,))
    with torch.no_grad():
        scores = Problem.of(story, guide, {"x": x}).score(3)
        assert set(scores.latents) == {"z"}
        every = Problem.of(story, guide, {"x": x}).draw_all(5)
    assert every.values["y"].shape == (5, 60, 3)
    assert bool((every.values["y"].sum(-1) == 1).all())
    # The draws of y weigh nothing more: log w of (y, z) is that of z alone.
    joint = log_joint(story, {"x": x}, every.values) - every.local
    alone = log_joint(story, {"x": x}, {"z": every.values["z"]}) - every.by_site["z"]
    torch.testing.assert_close(joint, alone)


# Errors


class Unsummable(PyroModule):
    def __init__(self, site_distribution, is_global=False):
        super().__init__()
        self.site_distribution, self.is_global = site_distribution, is_global

    def forward(self, n):
        if self.is_global:
            k = pyro.sample("k", self.site_distribution)
        with pyro.plate("data", n):
            if not self.is_global:
                k = pyro.sample("k", self.site_distribution)
            pyro.sample("x", dist.Normal(k.float().flatten(-1).sum(-1), 1.0))


@pytest.mark.parametrize(
    ("story", "message"),
    [
        (Unsummable(dist.Poisson(2.0)), r"site 'k'.*infinitely many values.*truncate it"),
        (Unsummable(dist.Bernoulli(0.5), is_global=True), r"site 'k'.*inside the plate 'data'"),
        (
            Unsummable(dist.Bernoulli(torch.full((40,), 0.5)).to_event(1)),
            r"\['k'\].*at most 4096.*got 1\.1e\+12; use .*categorical or concrete",
        ),
        (Unsummable(dist.Normal(0.0, 1.0)), r"expected a value for every latent site.*'k'"),
    ],
)
def test_what_cannot_be_summed_says_why(story, message):
    with pytest.raises(ValueError, match=message):
        log_joint(story, {"x": torch.zeros(3)}, {})


def test_configurations_hold_the_values_in_the_sites_own_type():
    sites = trace_sites(GaussianMixture(extra=True), {"x": torch.zeros(2, 2).double()})
    every = Configurations(sites.local_latent)
    assert every.count == 3 * 2 * 9
    assert {k: (tuple(v.shape), v.dtype) for k, v in every.values.items()} == {
        "k": ((54,), torch.int64),
        "coin": ((54,), torch.float64),
        "pair": ((54, 2), torch.float64),
    }
    rows = torch.cat([v.reshape(54, -1).double() for v in every.values.values()], 1)
    assert len(rows.unique(dim=0)) == 54
