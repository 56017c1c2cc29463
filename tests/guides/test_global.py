r"""Sites outside the plate, beside local ones: the part of the guide that no encoder serves,
weighed by N/B."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from built import seeded_guide
from pyro.nn import PyroModule

import ppvae
from ppvae import objectives
from ppvae.story import local_params, seeded_eval

NUM_ROWS, NOISE, WIDTH = 60, 0.65, 0.7


class Apart(PyroModule):
    """A level and a rate for all rows, a cause for each: independent given the data, so that every
    posterior is known."""

    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.tensor(0.0).double())

    def forward(self, n):
        level = pyro.sample("level", dist.Normal(self.zero, 2.0))
        rate = pyro.sample("rate", dist.Gamma(self.zero + 2.0, 1.0))
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0))
            pyro.sample("height", dist.Normal(level, NOISE))
            pyro.sample("count", dist.Poisson(rate))
            pyro.sample("x", dist.Normal(z, WIDTH))


class Together(PyroModule):
    """A level around which the rows' own causes lie."""

    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.tensor(0.0).double())

    def forward(self, n):
        level = pyro.sample("level", dist.Normal(self.zero, 2.0))
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(level, 1.0))
            pyro.sample("x", dist.Normal(z, WIDTH))


def built(story, observed, family="mean_field"):
    rows = ppvae.simulate(story, NUM_ROWS, seed=3)
    rows = {name: rows[name] for name in observed}
    return seeded_guide(family, story, rows, hidden=(8,)), rows


def moments(guide):
    """Mean and sd of each global site under the guide, from 100,000 draws."""
    part, generator = guide.global_guide, torch.Generator().manual_seed(0)
    with torch.no_grad():
        eps = torch.randn(100_000, len(part.loc), generator=generator).double()
        drawn = part.site_sampler.flat.unflatten(part.loc + part.log_scale.exp() * eps)[0]
    return {name: (float(v.mean()), float(v.std())) for name, v in drawn.items()}


def exact_level(rows):
    """Mean and sd of the level of `Apart`, given the heights."""
    precision = 1 / 4 + NUM_ROWS / NOISE**2
    return float(rows["height"].sum()) / NOISE**2 / precision, precision**-0.5


def exact_rate(rows):
    """Shape and rate of the Gamma law of the rate of `Apart`, given the counts."""
    return float(2 + rows["count"].sum()), 1.0 + NUM_ROWS


def test_global_posteriors_are_found_from_small_batches():
    guide, rows = built(Apart(), ("height", "count", "x"))
    ppvae.fit(
        Apart(), guide, rows, objective="stl", num_particles=16,
        epochs=100, batch_size=15, lr=0.02, schedule="cosine", progress=False,
    )  # fmt: skip
    shape, rate = exact_rate(rows)
    exact = {"level": exact_level(rows), "rate": (shape / rate, shape**0.5 / rate)}
    for name, (mean, sd) in moments(guide).items():
        assert abs(mean - exact[name][0]) < 0.1 * exact[name][1], name
        assert sd == pytest.approx(exact[name][1], rel=0.05), name
    miss = guide.posterior(rows).mean[:, 0] - rows["x"] / (1 + WIDTH**2)
    assert float(miss.detach().abs().mean()) < 0.05


def mean_gradient(story, guide, rows, objective, num_particles, num_rows):
    """Gradient at the global part's parameters over four small batches: mean and standard error of
    20 rounds."""
    loss_of = objectives.build(
        objective,
        story,
        guide,
        {k: v[:num_rows] for k, v in rows.items()},
        num_particles=num_particles,
    )
    parameters, batches = list(guide.global_guide.parameters()), range(4)
    found = []
    with local_params(story, guide, loss_of), seeded_eval(0, story, guide):
        for _ in range(20):
            losses = [loss_of({k: v[i::4] for k, v in rows.items()}) for i in batches]
            found.append(torch.cat(torch.autograd.grad(sum(losses) / 4, parameters)))
    found = torch.stack(found)
    return found.mean(0), found.std(0) / len(found) ** 0.5


@pytest.mark.parametrize(
    ("family", "objective", "num_particles"),
    [
        ("mean_field", "trace_elbo", 50),
        ("mean_field", "mean_field_elbo", 50),
        ("full_rank", "stl", 3000),
        ("semi_amortized", "trace_elbo", 10),
    ],
)
@pytest.mark.filterwarnings("ignore:no closed form")
def test_small_batches_pull_the_best_global_part_nowhere(family, objective, num_particles):
    """Best is the level's exact posterior, and for the Gamma rate the LogNormal law of the same
    mean, width² 1/shape."""
    story = Apart()
    guide, rows = built(story, ("height", "count", "x"), family)
    (mean, sd), (shape, rate) = exact_level(rows), exact_rate(rows)
    with torch.no_grad():
        guide.global_guide.loc.copy_(torch.tensor([mean, math.log(shape / rate) - 0.5 / shape]))
        guide.global_guide.log_scale.copy_(torch.tensor([sd, shape**-0.5]).log())
    pull, error = mean_gradient(story, guide, rows, objective, num_particles, NUM_ROWS)
    assert bool((pull.abs() < 4 * error + 1e-6).all())
    if (
        objective == "stl"
    ):  # so little noise that a Newton step would change each sd by less than 2 %
        assert bool(((pull.abs() + 4 * error)[2:] * NUM_ROWS / 2 < 0.02).all())
    pull, error = mean_gradient(story, guide, rows, objective, num_particles, NUM_ROWS // 2)
    assert bool((pull[2:].abs() > 10 * error[2:]).all())  # as if there were half the rows


def test_a_level_is_held_apart_from_the_causes_around_it():
    """The guide's product form keeps the mean, and takes z as given: precision 1/4 + N, not 1/4 + N
    / (1 + width²)."""
    story = Together()
    guide, rows = built(story, ("x",))
    ppvae.fit(
        story, guide, rows, num_particles=64, epochs=100, batch_size=15, lr=0.02, progress=False
    )
    spread = 1 + WIDTH**2
    mean, sd = moments(guide)["level"]
    exact_mean = float(rows["x"].sum()) / spread / (1 / 4 + NUM_ROWS / spread)
    assert abs(mean - exact_mean) < 0.1 * sd
    assert sd == pytest.approx((1 / 4 + NUM_ROWS) ** -0.5, rel=0.04)
