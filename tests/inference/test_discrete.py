r"""Discrete local sites: summed over exactly wherever they are finite and few, refused by name
where they are not.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import ppvae
from ppvae.inference import Annealing, exact_evidence, knows_exact, methods_for
from ppvae.problem import Problem


class Clusters(PyroModule):
    """A cluster and, if there are numbers, where in it: a Gaussian mixture of factor analysers."""

    def __init__(self, continuous=True, sizes=3):
        super().__init__()
        self.continuous, self.sizes = continuous, sizes
        self.register_buffer("loc", torch.linspace(-2, 2, 3).double().unsqueeze(-1).expand(3, 4))
        self.register_buffer(
            "loadings", torch.tensor([[1.0, 0.5], [0.0, 1.0], [-0.5, 0.3], [0.2, 0.2]]).double()
        )
        self.register_buffer("zero", torch.zeros(2).double())

    def forward(self, n):
        with pyro.plate("data", n):
            k = pyro.sample("k", dist.Categorical(logits=self.zero.sum() + torch.arange(3.0)))
            loc = self.loc[k]
            if self.continuous:
                z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
                loc = loc + z @ self.loadings.T
            pyro.sample("x", dist.Normal(loc, 0.7).to_event(1))

    def truth(self, x):
        """log p(x) in closed form, `(B,)`."""
        covariance = 0.49 * torch.eye(4).double()
        if self.continuous:
            covariance = covariance + self.loadings @ self.loadings.T
        site_distribution = dist.MultivariateNormal(self.loc, covariance)
        log_prior = torch.arange(3.0).double().log_softmax(0)
        return (site_distribution.log_prob(x.unsqueeze(1)) + log_prior).logsumexp(1)


class Coins(PyroModule):
    """Many coins decide one number: too many joint values to be summed over."""

    def __init__(self, continuous=False):
        super().__init__()
        self.continuous = continuous
        self.register_buffer("fair", torch.full((20,), 0.5))

    def forward(self, n):
        with pyro.plate("data", n):
            coins = pyro.sample("coins", dist.Bernoulli(self.fair).to_event(1))
            loc = coins.sum(-1)
            if self.continuous:
                loc = loc + pyro.sample("z", dist.Normal(self.fair[0], 1.0))
            pyro.sample("x", dist.Normal(loc, 1.0))


class Poisson(PyroModule):
    """A cause with infinitely many values, and a number."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(2.0))

    def forward(self, n):
        with pyro.plate("data", n):
            k = pyro.sample("k", dist.Poisson(self.rate))
            z = pyro.sample("z", dist.Normal(self.rate.detach(), 1.0))
            pyro.sample("x", dist.Normal(k + z, 1.0))


class DrawsAll(nn.Module):
    """Somebody's guide, which draws every site from something like its prior."""

    def __init__(self, **laws):
        super().__init__()
        self.laws = laws

    def forward(self, batch):
        with pyro.plate("data", len(batch["x"])):
            for name, site_distribution in self.laws.items():
                pyro.sample(name, site_distribution)


def test_a_story_of_finite_discrete_sites_alone_has_an_exact_evidence():
    story = Clusters(continuous=False)
    rows = {"x": ppvae.simulate(story, 300, seed=0)["x"]}
    truth = story.truth(rows["x"])
    problem = Problem.of(story, None, rows)
    assert knows_exact(problem)
    torch.testing.assert_close(ppvae.log_evidence(story, rows, method="exact").value, truth)
    assert float(exact_evidence(problem).std_error.max()) == 0
    guide = ppvae.guides.build("enumerated", story, rows)
    found = ppvae.gaps(story, guide, {"x": rows["x"][:20]}, num_particles=50)
    assert found.method == "exact"
    torch.testing.assert_close(found.log_evidence.value, truth[:20])


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_annealing_and_quadrature_sum_discrete_sites_out(start):
    story = Clusters()
    rows = {"x": ppvae.simulate(story, 8, seed=0)["x"]}
    truth = story.truth(rows["x"])
    guide = ppvae.guides.build("full_rank", story, rows, hidden=(8,))
    annealing = Annealing(num_chains=16, num_temperatures=20, num_leapfrog=2, start=start)
    options = {"guide": guide, "annealing": annealing, "local_steps": 60}
    found = ppvae.log_evidence(story, rows, method="ais", **options)
    noise = float(found.std_error.square().sum().sqrt()) / len(truth)
    assert abs(float((found.value - truth).mean())) < 4 * noise
    grid = ppvae.log_evidence(story, rows, method="quadrature", **options)
    torch.testing.assert_close(grid.value, truth, rtol=0, atol=1e-6)
    sandwich = ppvae.bdmc(story, guide, num_simulated=8, annealing=annealing, local_steps=60)
    assert float(sandwich.width.mean().value) > -4 * float(sandwich.width.mean().std_error)


def test_rows_that_show_their_label_are_scored_under_it_from_either_start():
    story = Clusters()
    drawn = ppvae.simulate(story, 9, seed=0)
    labels = drawn["k"].double()
    labels[::2] = torch.nan
    rows = {"x": drawn["x"], "k": labels}
    guide = ppvae.guides.build("full_rank", story, rows, hidden=(8,))
    covariance = 0.49 * torch.eye(4).double() + story.loadings @ story.loadings.T
    own = dist.MultivariateNormal(story.loc[drawn["k"]], covariance).log_prob(drawn["x"])
    own = own + torch.arange(3.0).double().log_softmax(0)[drawn["k"]]
    truth = torch.where(labels.isnan(), story.truth(drawn["x"]), own)
    for start in ("guide", "prior"):
        annealing = Annealing(num_temperatures=20, num_leapfrog=2, start=start)
        found = ppvae.log_evidence(
            story, rows, method="ais", guide=guide, annealing=annealing, local_steps=60
        )
        noise = float(found.std_error.square().sum().sqrt()) / len(truth)
        assert abs(float((found.value - truth).mean())) < 4 * noise


@pytest.mark.parametrize("method", ["ais", "quadrature"])
def test_what_cannot_be_summed_out_is_named(method):
    x = torch.zeros(4)
    coins = dist.Bernoulli(torch.full((20,), 0.5)).to_event(1)
    z = dist.Normal(torch.tensor(0.0), 1.0)
    for story, guide, message in (
        (Coins(), DrawsAll(coins=coins), r"a continuous latent site for method '.*discrete "
                                         r"\['coins'\]"),
        (Coins(continuous=True), DrawsAll(coins=coins, z=z), r"\['coins'\].*at most 4096.*use "
                                                             r"method 'iwae'"),
        (Poisson(), DrawsAll(k=dist.Poisson(torch.tensor(2.0)), z=z), r"site 'k'.*infinitely "
                                                                      r"many.*use method 'iwae'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            ppvae.log_evidence(story, x, method=method, guide=guide)
    with pytest.raises(ValueError, match="at most 4096"):
        ppvae.log_evidence(Coins(), x, method="exact")
    assert not knows_exact(Problem.of(Coins(), None, x))


def test_importance_sampling_serves_where_a_guide_draws_infinite_sites():
    story = Poisson()
    x = torch.tensor([0.0, 2.0, 5.0])
    site_distribution = {
        "k": dist.Poisson(torch.tensor(3.0)),
        "z": dist.Normal(torch.tensor(1.0), 1.5),
    }
    found = ppvae.log_evidence(
        story,
        x,
        method="iwae",
        guide=DrawsAll(**site_distribution),
        num_particles=20_000,
        local_steps=0,
    )
    k = torch.arange(60.0)
    each = dist.Poisson(2.0).log_prob(k) + dist.Normal(2.0, 2**0.5).log_prob(x.unsqueeze(1) - k)
    assert bool(((found.value - each.logsumexp(1)).abs() < 4 * found.std_error).all())
    assert methods_for(Problem.of(story, None, x)) == ["iwae"]


def test_gaps_leave_annealing_out_where_there_is_nothing_to_anneal():
    story = Coins()
    x = ppvae.simulate(story, 3, seed=0)["x"]
    guide = ppvae.guides.build("categorical", story, x, hidden=(4,))
    found = ppvae.gaps(story, guide, x, num_particles=50)
    assert found.method == "iwae" and found.certificate is None
