"""The auxiliary guide: weights that are right, a density by quadrature, and what must not be asked
of it; float64."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from built import seeded_guide
from exact import correlated, rows_of
from pyro.nn import PyroModule

import ppvae
from ppvae.guides.base import positive
from ppvae.inference import elbo, optimize_local
from ppvae.story import seeded_eval

NUM_ROWS = 4


def made(dim=2, **options):
    """A story, rows, and a guide whose parameters are moved: v and u depend on each other."""
    story = correlated(dim)
    batch = rows_of(story, NUM_ROWS)
    return story, batch, seeded_guide("auxiliary", story, batch, **options)


@pytest.mark.parametrize("options", [{}, {"num_auxiliary": 1}, {"num_layers": 3}])
def test_what_a_draw_weighs_is_log_q_of_both_less_the_reverse_model(options):
    _, batch, guide = made(moved=0.3, **options)
    with torch.no_grad():
        q = guide.posterior(batch)
        with torch.random.fork_rng():
            both, _ = q.joint.draw(q.batch_shape)
        v, u = both[..., :-2], both[..., -2:]
        eps = q.joint.pull(both)
        slopes = torch.autograd.functional.jacobian(lambda e: q.joint.push(e)[0], eps)
        slopes = torch.stack([slopes[i, :, i] for i in range(NUM_ROWS)])
        log_q = dist.Normal(0.0, 1.0).log_prob(eps).sum(-1) - slopes.det().abs().log()
        own = q.sample()
        torch.testing.assert_close(own, u)
        torch.testing.assert_close(q.log_prob(own), log_q - q.reverse_model(u).log_prob(v))


@pytest.mark.parametrize("num_layers", [1, 3])
def test_its_weights_have_the_evidence_as_their_mean_however_bad_the_reverse_model(num_layers):
    story, batch, guide = made(moved=0.1, num_layers=num_layers)
    with torch.no_grad():
        guide.to_parameters.bias[2:4] += 3.0  # wider than the posterior
    found = ppvae.log_evidence(
        story, batch, method="iwae", guide=guide, num_particles=150_000, local_steps=0
    )
    assert float(found.std_error.max()) < 0.05
    assert bool(
        ((found.value - story.log_evidence(batch).detach()).abs() < 4 * found.std_error).all()
    )


def test_the_density_is_the_integral_over_v():
    _, batch, guide = made(moved=0.05, num_auxiliary=1)
    grid = torch.linspace(-8, 8, 801).double()
    with torch.no_grad(), seeded_eval(0, guide):
        q = guide.posterior(batch)
        u = q.sample((20,)).clone()
        v = grid.reshape(-1, 1, 1, 1).expand(-1, 20, NUM_ROWS, 1)
        log_both = q.joint.log_prob(torch.cat([v, u.expand(len(grid), *u.shape)], -1))
        exact = log_both.logsumexp(0) + (grid[1] - grid[0]).log()
        assert float((q.log_prob(u) - exact).abs().max()) < 0.02
        q.num_nodes = 1024
        assert float((q.log_prob(u) - exact).abs().max()) < 0.005
        q.num_nodes = 128
        own = q.sample((2000,))
        lack = q.log_prob(own) - q.log_prob(own.clone())  # in the mean E KL(q(v|u) || r)
    assert bool((lack.mean(0) > 4 * lack.std(0) / len(lack) ** 0.5).all())


def test_it_closes_the_gap_of_correlations_which_independent_gaussians_cannot():
    story, batch, guide = made(3)
    precision = story.posterior_precision().detach()
    assert float(0.5 * (precision.diagonal().log().sum() - precision.logdet())) > 0.5
    local = guide.local(batch)
    optimize_local(story, local, max_steps=400, num_starts=1)
    gap = story.log_evidence(batch).detach() - elbo(story, local, batch, num_particles=2000).value
    assert -0.02 < float(gap.mean()) <= 0.05


def test_annealing_from_it_starts_at_the_gaussian_in_its_place_and_finds_the_evidence():
    story, batch, guide = made(moved=0.1)
    short = ppvae.Annealing(num_chains=20, num_temperatures=30)
    found = ppvae.log_evidence(
        story, batch, method="ais", guide=guide, annealing=short, local_steps=100
    )
    exact = story.log_evidence(batch).detach()
    assert bool(((found.value - exact).abs() < 4 * found.std_error + 0.02).all())


def inverse_of_positive(scale):
    raw = torch.linspace(-5, 5, 100_001).double()
    return raw[(positive(raw) - scale).abs().argmin()]


class Unseen(PyroModule):
    """The data say nothing about z."""

    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.zeros(1).double())

    def forward(self, n):
        with pyro.plate("data", n):
            pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.zero, 1.0).to_event(1))


def test_coverage_holds_densities_against_densities():
    """v carries most of z, and the reverse model does not know: what draws weigh is far from their
    density."""
    story = Unseen()
    rows = {"x": torch.randn(20, 1).double()}
    guide = seeded_guide("auxiliary", story, rows, flow_hidden=(), context=1)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.zero_()
        to_u = guide.transport.layers[0].networks[0][
            -1
        ]  # from v and context to shift and raw scale
        to_u.weight[0, 0] = 0.9
        to_u.bias[1] = inverse_of_positive(0.19**0.5)
    found = ppvae.diagnostics.coverage(story, guide, rows, num_simulations=500, num_draws=99)
    assert found.verdict == "pass", found


# What cannot be asked of it

NEED_DENSITY = ("stl", "dreg", "score_function", "vimco", "reweighted_wake_sleep")


@pytest.mark.parametrize("name", NEED_DENSITY)
def test_an_objective_that_takes_the_score_of_q_refuses_it(name):
    story, batch, guide = made()
    with pytest.raises(
        ValueError, match=rf"density for {name}, got a reverse model .*use trace_elbo"
    ):
        ppvae.objectives.build(name, story, guide, batch, num_particles=2)


@pytest.mark.parametrize("name", ["trace_elbo", "iwae", "renyi", "wake_sleep"])
def test_other_objectives_train_all_of_it(name):
    story, batch, guide = made()
    before = {k: p.clone() for k, p in guide.named_parameters()}
    ppvae.fit(story, guide, batch, objective=name, epochs=2, num_particles=2, progress=False)
    assert all(not torch.equal(before[k], p) for k, p in guide.named_parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"num_auxiliary": 0},
        {"num_layers": 2},
        {"num_nodes": 0},
        {"flow_hidden": (0,)},
        {"context": 0},
    ],
)
def test_a_size_out_of_range_is_an_error(options):
    with pytest.raises(ValueError, match="of at least 1, got|odd num_layers for auxiliary, got"):
        made(**options)
