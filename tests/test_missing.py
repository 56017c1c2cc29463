r"""Missing values: filled inside the support, left out of the density, refused where they cannot
be."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from stories import CASES, rows_of
from torch.distributions import Normal

from ppvae.story import check_data, log_joint, simulate


class Noisy(PyroModule):
    """z, a vector and a correlated pair; the closed form of every marginal is known given z."""

    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0]).double())
        self.chol = torch.tensor([[1.0, 0.0], [0.7, 0.5]]).double()

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            loc = z.unsqueeze(-1) + self.loc
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("p", dist.MultivariateNormal(loc[..., :2], scale_tril=self.chol))


def noisy_rows():
    return {k: v for k, v in simulate(Noisy(), 6, seed=0).items() if k != "z"}


def test_missing_entries_do_not_count_and_gradients_stay_finite():
    story, batch = Noisy(), noisy_rows()
    full = batch["x"].clone()
    missing = torch.tensor(
        [[0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    ).bool()
    batch["x"] = full.masked_fill(missing, math.nan)
    z = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z.requires_grad_(True)
    found = log_joint(story, batch, {"z": z})
    entries = Normal(z.unsqueeze(-1) + story.loc, 1.0).log_prob(full)
    pair = dist.MultivariateNormal(z.unsqueeze(-1) + story.loc[:2], scale_tril=story.chol)
    expected = Normal(0.0, 1.0).log_prob(z) + pair.log_prob(batch["p"])
    expected = expected + entries.masked_fill(missing, 0.0).sum(-1)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert bool(torch.isfinite(z.grad).all()) and bool(torch.isfinite(story.loc.grad).all())


def test_a_whole_missing_event_does_not_count():
    story, batch = Noisy(), noisy_rows()
    z = torch.zeros(1, 6, dtype=torch.float64)
    full = log_joint(story, batch, {"z": z})
    pair = dist.MultivariateNormal(story.loc[:2], scale_tril=story.chol).log_prob(batch["p"])
    batch["p"] = batch["p"].clone()
    batch["p"][2] = math.nan
    found = log_joint(story, batch, {"z": z})
    torch.testing.assert_close(found[0, 2], full[0, 2] - pair[2])
    torch.testing.assert_close(found[0, :2], full[0, :2])
    check_data(story, batch)


@pytest.mark.parametrize("row", [0, 5])
def test_an_event_that_cannot_be_split_must_miss_wholly(row):
    story, batch = Noisy(), noisy_rows()
    batch["p"] = batch["p"].clone()
    batch["p"][row, 1] = math.nan
    with pytest.raises(ValueError, match=r"site 'p'.*whole events of MultivariateNormal"):
        check_data(story, batch)


@pytest.mark.parametrize(
    "likelihood",
    [
        dist.Bernoulli(torch.tensor(0.3).double()),
        dist.Poisson(torch.tensor(3.0).double()),
        dist.Gamma(torch.tensor(2.0).double(), 1.0),
        dist.Beta(torch.tensor(2.0).double(), 1.0),
        dist.Uniform(torch.tensor(1.0).double(), 2.0),
        dist.Dirichlet(torch.ones(3).double()),
        dist.OneHotCategorical(torch.ones(3).double()),
        dist.Categorical(torch.ones(3).double()),
        dist.Multinomial(5, torch.ones(3).double()),
        dist.VonMises(torch.tensor(0.0).double(), 1.0),
        dist.LogNormal(torch.tensor(0.0).double(), 1.0),
    ],
    ids=lambda d: type(d).__name__,
)
def test_missing_values_are_filled_inside_every_support(likelihood):
    class One(PyroModule):
        def forward(self, n):
            with pyro.plate("data", n):
                pyro.sample("x", likelihood)

    x = likelihood.expand([6]).sample().double()
    z = {"x": x.clone()}
    z["x"][1] = math.nan
    expected = likelihood.log_prob(x)
    expected[1] = 0.0
    check_data(One(), z)
    with pyro.validation_enabled(True):
        torch.testing.assert_close(log_joint(One(), z, {})[0], expected)


def test_a_missing_parent_is_an_error():
    class Labelled(PyroModule):
        def forward(self, n):
            with pyro.plate("data", n):
                y = pyro.sample("y", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample("x", dist.Normal(y, 1.0))

    labels = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0, math.nan])
    with pytest.raises(ValueError, match=r"'y': expected no missing.*row 6.*depend on it"):
        check_data(Labelled(), {"y": labels, "x": torch.zeros(7)})


def test_a_missing_covariate_is_an_error():
    story = CASES["covariate"].story()
    batch = rows_of(CASES["covariate"], story)
    batch["dose"][3] = math.nan
    with pytest.raises(ValueError, match=r"'dose': expected no missing.*row 3.*covariate"):
        check_data(story, batch)


def test_present_entries_of_a_row_that_misses_some_are_checked_too():
    class Coins(PyroModule):
        def forward(self, n):
            with pyro.plate("data", n):
                pyro.sample("x", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1))

    x = torch.tensor([[0.0, 1.0, 1.0], [math.nan, 0.5, 1.0]])
    with pytest.raises(ValueError, match=r"site 'x'.*got 0.5 in row 1.*binarise"):
        check_data(Coins(), x)
