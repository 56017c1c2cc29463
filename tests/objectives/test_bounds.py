"""What the losses are worth: limits that must agree, and bounds under subsampling with a global
site."""

import math

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO
from pyro.nn import PyroModule
from stories import CASES, rows_of
from torch import nn

import ppvae
from ppvae import objectives
from ppvae.estimate import log_mean_exp
from ppvae.objectives.vimco import without_each
from ppvae.problem import Problem
from ppvae.story import eval_mode, local_params, observe, scale_rows, seeded_eval

NUM_ROWS, SCALE, WIDTH = (
    10,
    2.0,
    10.0,
)  # sd of a row given the centre is sqrt(2); WIDTH: sd of the centre


def value(name, pair, batch, seed=0, **options):
    """The loss of one draw, in nats per row."""
    objective = objectives.build(name, *pair, batch, **options)
    with torch.no_grad(), seeded_eval(seed, *pair), eval_mode(objective):
        return float(objective(batch))


def values(name, pair, batch, **options):
    """Mean and standard error of the loss over 2000 draws of each row."""
    many = {k: v.repeat(100, 1) for k, v in batch.items()}
    objective = objectives.build(name, *pair, many, **options)
    with torch.no_grad(), local_params(*pair), seeded_eval(0, *pair), eval_mode(objective):
        seen = torch.stack([objective(many) for _ in range(20)])
    return float(seen.mean()), float(seen.std()) / 20**0.5


@pytest.fixture(scope="module")
def gaussian():
    story = exact.linear_gaussian()
    batch = exact.rows_of(story, 6)
    torch.manual_seed(0)
    return (story, ppvae.guides.build("full_rank", story, batch)), batch


@pytest.mark.parametrize("name", ["stl", "iwae", "dreg", "renyi", "score_function", "free_bits"])
def test_with_one_particle_every_bound_is_the_elbo(gaussian, name):
    pair, batch = gaussian
    options = {"floor": 0.0} if name == "free_bits" else {}
    mean, error = values(name, pair, batch, **options)
    right = ppvae.elbo(*pair, batch, num_particles=20_000).value.mean()
    assert mean == pytest.approx(-float(right), abs=4 * error)


def test_renyi_is_the_elbo_at_one_and_the_importance_weighted_bound_at_zero(gaussian):
    pair, batch = gaussian
    particles = {"num_particles": 7}
    below, at, above = (
        value("renyi", pair, batch, alpha=a, **particles) for a in (1 - 1e-6, 1.0, 1 + 1e-6)
    )
    assert below < at < above < below + 1e-2
    with torch.no_grad(), seeded_eval(0, *pair):
        log_w = Problem.of(*pair, batch).score(7).log_weights  # of the same draws
    assert at == pytest.approx(-float(log_w.mean()), abs=1e-12)
    assert value("renyi", pair, batch, alpha=0.0, **particles) == pytest.approx(
        value("iwae", pair, batch, **particles), abs=1e-12
    )


@pytest.mark.parametrize("name", ["iwae", "dreg", "vimco", "renyi"])
def test_no_lower_bound_lies_above_the_log_evidence(gaussian, name):
    pair, batch = gaussian
    mean, error = values(name, pair, batch, num_particles=20)
    log_p = float(pair[0].log_evidence(batch).mean().detach())
    elbo = float(ppvae.elbo(*pair, batch, num_particles=20_000).value.mean())
    assert elbo + 4 * error < -mean < log_p + 4 * error


def test_every_objective_has_the_same_loss_where_the_guide_is_the_posterior():
    story = exact.linear_gaussian()
    batch = exact.rows_of(story, 6)
    pair = (story, exact.at_posterior(story, batch))
    log_p = float(story.log_evidence(batch).mean().detach())
    others = {
        "mean_field_elbo",
        "monte_carlo_em",
        "free_bits",
    }  # no closed form; another loss; a floor
    for name in objectives.OBJECTIVES.keys() - others:
        found = value(name, pair, batch, num_particles=3)
        assert found == pytest.approx(-log_p, abs=1e-9), name


def test_free_bits_charge_no_less_than_the_floor_and_do_not_pull_below_it(gaussian):
    pair, batch = gaussian
    parameters = list(pair[1].parameters())

    def at(floor, beta=1.0):
        objective = objectives.build("free_bits", *pair, batch, floor=floor, beta=beta)
        with local_params(*pair), seeded_eval(0, *pair):
            loss = objective(batch)
        gradient = torch.autograd.grad(loss, parameters, allow_unused=True)
        return float(loss.detach()), torch.cat([g.flatten() for g in gradient if g is not None])

    (free, pulled), (low, also), (high, left) = at(0.0), at(1e-9), at(1000.0)
    likelihood, alone = at(0.0, beta=0.0)
    assert low == pytest.approx(free, abs=1e-12) and high == pytest.approx(likelihood + 1000)
    torch.testing.assert_close(also, pulled)
    torch.testing.assert_close(left, alone)  # as if there were no latent term
    assert not torch.allclose(pulled, alone)


def test_weights_by_site_weigh_each_site_by_itself():
    story = CASES["two_sites"].story()
    batch = rows_of(CASES["two_sites"], story)
    pair = (story, ppvae.guides.build("mean_field", story, batch, hidden=(8,)))
    for name in ("trace_elbo", "mean_field_elbo", "iwae", "stl"):
        free = value(name, pair, batch, beta=0.0)
        a, b = (
            value(name, pair, batch, beta={k: 1.0, o: 0.0}) for k, o in (("a", "b"), ("b", "a"))
        )
        assert a + b - free == pytest.approx(value(name, pair, batch), abs=1e-9), name
        assert min(abs(a - free), abs(b - free)) > 1e-3


# --- a global site beside local ones, one row of ten at a time -----------------


class Centred(PyroModule):
    """Rows around a centre that is latent too: x ~ N(centre, 2), centre ~ N(0, 100)."""

    def forward(self, n):
        centre = pyro.sample("centre", dist.Normal(torch.zeros(()).double(), WIDTH))
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(centre, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0))


class Guess(nn.Module):
    """A centre near the data's; z as its prior around a fixed place, too wide for the posterior."""

    loc, scale, spread = 3.2, 0.5, 1.5

    def forward(self, batch):
        one = torch.ones(()).double()
        pyro.sample("centre", dist.Normal(self.loc * one, self.scale))
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("z", dist.Normal(batch["x"], self.spread * one))


@pytest.fixture(scope="module")
def centred():
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2**0.5 * torch.randn(NUM_ROWS, generator=generator, dtype=torch.float64)
    cover = 2 * torch.eye(NUM_ROWS).double() + WIDTH**2
    log_p = dist.MultivariateNormal(torch.zeros(NUM_ROWS).double(), cover).log_prob(x)
    return Centred(), Guess(), x, float(log_p)


def whole(centred, one_row, repeats):
    """Mean and standard error of N times minus the loss of a batch of one row, over rows and
    draws."""
    x = centred[2]
    seen = torch.tensor([[one_row(x[i : i + 1]) for i in range(NUM_ROWS)] for _ in range(repeats)])
    return float(seen.mean()), float(seen.mean(1).std()) / repeats**0.5


@pytest.mark.parametrize("name", ["iwae", "dreg", "vimco"])
def test_iwae_of_a_subsampled_plate_beside_a_global_site_is_a_lower_bound(centred, name):
    story, guide, x, log_p = centred
    objective = objectives.build(name, story, guide, x, num_particles=100)

    def bound(row):
        return -NUM_ROWS * float(objective({"x": row}).detach())

    with local_params(story, guide), seeded_eval(0, story, guide):
        mean, error = whole(centred, bound, 15)
    # With many particles it becomes E_q log p(x | centre) - KL(q(centre) || p(centre)): known here.
    q = dist.Normal(guide.loc, guide.scale)
    prior = dist.Normal(0.0, WIDTH)
    given = dist.Normal(guide.loc, SCALE**0.5).log_prob(x).sum() - NUM_ROWS * guide.scale**2 / (
        2 * SCALE
    )
    limit = float(given - torch.distributions.kl_divergence(q, prior))
    assert limit < log_p
    assert mean < log_p
    assert mean == pytest.approx(limit, abs=4 * error + 0.1)


def test_pyros_renyi_elbo_of_the_same_is_no_bound(centred):
    """Why ours exists: the plate's scale stands inside the logarithm there, and the particles'
    centres differ."""
    story, guide, _, log_p = centred
    renyi = RenyiELBO(alpha=0, num_particles=100, vectorize_particles=True, max_plate_nesting=1)
    scaled = scale_rows(observe(story), NUM_ROWS), scale_rows(guide, NUM_ROWS)
    with torch.no_grad(), local_params(story, guide), seeded_eval(0, story, guide):
        mean, error = whole(centred, lambda row: -renyi.loss(*scaled, {"x": row}), 15)
    assert mean > log_p + 4 * error + 1


def test_a_particle_with_a_centre_of_its_own_would_not_do_either(centred):
    """One draw of the global site must serve all particles of the rows: else a narrow posterior is
    averaged away."""
    story, _, x, log_p = centred
    guide = Guess()
    guide.scale = 3.0  # wide: a particle of its own finds the best centre for each row
    with torch.no_grad(), local_params(story, guide), seeded_eval(0, story, guide):
        problem = Problem.of(story, guide, {"x": x})
        scores = [problem.score(1000) for _ in range(20)]
        isolated = [
            float(log_mean_exp(s.log_weights, 0).sum() + s.log_global.mean()) for s in scores
        ]
        objective = objectives.build("iwae", story, guide, x, num_particles=1000)
        shared = [-NUM_ROWS * float(objective({"x": x})) for _ in range(20)]
    assert sum(isolated) / 20 > sum(shared) / 20 + 10
    assert sum(shared) / 20 < log_p
    assert math.isfinite(sum(isolated))


def test_a_weight_of_zero_leaves_the_signal_of_the_other_particles_finite():
    log_w = torch.tensor([[0.0], [-math.inf], [1.0]]).double()
    found = without_each(log_w).flatten()
    # With another weight of zero the geometric mean is zero too, and only the others count.
    assert float(found[0]) == pytest.approx(1.0 - math.log(3))
    assert float(found[1]) == pytest.approx(
        float(torch.tensor([0.0, 1.0, 0.5]).logsumexp(0)) - math.log(3)
    )
    assert float(found[2]) == pytest.approx(-math.log(3))
