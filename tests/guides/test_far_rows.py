r"""Rows far from all that the encoder was trained on: a flow stays near `mean_field`, whatever its
networks extrapolate."""

from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from built import seeded_guide
from exact import correlated, rows_of
from pyro.nn import PyroModule

import ppvae
from ppvae.nets import MLP

FLOWS = ["householder", "iaf", "realnvp", "nsf", "planar", "sylvester", "auxiliary"]
TIMES = (10, 100, 1000)
# Times the cost of mean_field, on any row and in the median. Measured with 1,000 rows and 300 steps
# on stories with Normal data: at most 2.4 and 1.12; with counts, here: 35 (planar, one row at 1,000
# times the counts; 17.5 where no gradient is shortened) and 1.23. What stands behind an exp far
# away is only held to an order of magnitude.
ANY_ROW, ANY_ROW_OF_COUNTS, MEDIAN = 4.0, 100.0, 1.5


class Curved(PyroModule):
    """Six numbers from two causes through a network."""

    def __init__(self):
        super().__init__()
        self.decoder = MLP(2, 6, (32,))
        self.register_buffer("zero", torch.zeros(2))

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(3 * self.decoder(z), 0.3).to_event(1))


class Counts(PyroModule):
    """Six counts, whose rates are exponentials of two causes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("loadings", torch.randn(2, 6))
        self.register_buffer("zero", torch.zeros(2))

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            rate = (z @ self.loadings + 1).exp()
            pyro.sample("x", dist.Poisson(rate).to_event(1))


def curved():
    torch.manual_seed(3)
    return Curved().double()


def counts():
    torch.manual_seed(3)
    return Counts().double()


@cache
def costs(make, family):
    """−ELBO of new rows times 1 and each of `TIMES`, `(4, B)`, in nats, under a guide trained on
    rows as they are."""
    with torch.random.fork_rng():
        story = make().requires_grad_(False)
        train, new = rows_of(story, 500), rows_of(story, 40, seed=2)
    guide = seeded_guide(family, story, train, hidden=(64, 64))
    ppvae.fit(
        story, guide, train, epochs=15, batch_size=50, lr=3e-3, num_particles=4, progress=False
    )
    far = [{"x": times * new["x"]} for times in (1, *TIMES)]
    return torch.stack(
        [-ppvae.elbo(story, guide, x, num_particles=50, seed=0).value for x in far]
    ).detach()


@pytest.mark.parametrize("family", FLOWS)
@pytest.mark.parametrize("make", [correlated, curved])
def test_a_flow_costs_no_more_than_a_few_times_mean_field_on_far_rows(make, family):
    ours, plain = costs(make, family), costs(make, "mean_field")
    assert bool(ours.isfinite().all()) and bool((plain[1:] > 0).all())
    ratio = ours[1:] / plain[1:]
    assert float(ratio.max()) < ANY_ROW, ratio.amax(-1)
    assert float(ratio.median(-1).values.max()) < MEDIAN, ratio.median(-1).values


# Without sylvester, which 150 steps do not train here: it costs 4 times mean_field on a row that is
# near.
@pytest.mark.parametrize("family", [f for f in FLOWS if f != "sylvester"])
def test_a_flow_stays_near_mean_field_on_far_counts(family):
    ours, plain = costs(counts, family), costs(counts, "mean_field")
    ratio = ours[1:] / plain[1:]
    assert bool(ours.isfinite().all()) and float(ratio.max()) < ANY_ROW_OF_COUNTS, ratio.amax(-1)
    assert float(ratio.median(-1).values.max()) < MEDIAN, ratio.median(-1).values


def test_an_encoder_does_not_blow_up_behind_an_exp():
    """With inputs that grow in proportion: 1e27 nats at 100 times the counts, and at 1,000 times
    1e286 or NaN."""
    cost = costs(counts, "mean_field").mean(-1)
    assert float(cost[2]) < 1e6 and float(cost[3]) < 1e9, cost


@pytest.mark.parametrize("make", [correlated, curved])
def test_far_rows_are_far(make):
    """A guide that answered rightly there would pay a few nats over the evidence, not thousands
    over the near rows."""
    near, *_, furthest = costs(make, "mean_field")
    assert float(furthest.mean()) > 1e5 * float(near.mean().abs())
