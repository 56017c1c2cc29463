r"""What each family can and cannot do, against closed forms and grids; float64."""

import math
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from built import seeded_guide
from exact import correlated, rows_of
from families import CONTINUOUS, NEEDS_SEVERAL_SITES
from pyro.nn import PyroModule

from ppvae.guides.flow_guide import MAX_CONTEXT
from ppvae.guides.mixture import DiagonalMixture
from ppvae.inference import elbo, optimize_local
from ppvae.stories import load as load_story
from ppvae.story import LogJoint

FLOWS = ["iaf", "realnvp", "nsf"]


def correlated_rows():
    story = correlated()
    return story, rows_of(story, 5)


def trained(guide, story, batch, num_steps, lr=0.01):
    """Plain stochastic ascent of the amortized ELBO."""
    log_joint = LogJoint(story, batch)
    parameters = list(guide.parameters())
    optimiser = torch.optim.Adam(parameters, lr)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(num_steps):
            q = guide.posterior(batch)
            u = q.rsample((16,))
            latents, log_det = guide.flat.unflatten(u)
            loss = -(log_joint(latents) + log_det - q.log_prob(u)).mean()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()
    return guide


def gap_of(guide, story, batch, log_evidence, max_steps, **search):
    """Approximation gap, mean over rows, in nats."""
    local = guide.local(batch)
    optimize_local(story, local, max_steps=max_steps, **search)
    found = elbo(story, local, batch, num_particles=2000, seed=7)
    return float((log_evidence - found.value).mean())


def grid_evidence(story, batch, low, high, nodes=1001):
    """log p(x) of each row by the trapezium rule on a fixed grid, `(B,)`, in nats."""
    axes = [
        torch.linspace(a, b, nodes, dtype=torch.float64) for a, b in zip(low, high, strict=True)
    ]
    guide = seeded_guide("mean_field", story, batch)
    grid = torch.cartesian_prod(*axes).reshape(-1, 1, len(axes))
    cell = sum(float((axis[1] - axis[0]).log()) for axis in axes)
    log_p = []
    with torch.no_grad():
        for row in range(len(next(iter(batch.values())))):
            log_joint = LogJoint(story, {k: v[row : row + 1] for k, v in batch.items()})
            latents, log_det = guide.flat.unflatten(grid)
            log_p.append((log_joint(latents) + log_det).logsumexp(0) + cell)
    return torch.cat(log_p)


# A linear-Gaussian story


ENOUGH_STEPS = {"low_rank": 1200, "householder": 700, "iaf": 250, "realnvp": 250, "nsf": 200}


@pytest.mark.parametrize("family", ENOUGH_STEPS)
def test_families_with_correlations_close_the_gap_that_mean_field_cannot(family):
    story, batch = correlated_rows()
    precision = story.posterior_precision().detach()
    assert float(0.5 * (precision.diagonal().log().sum() - precision.logdet())) > 0.5
    log_evidence = story.log_evidence(batch).detach()
    options = {"low_rank": {"rank": 3}, "householder": {"num_steps": 3}}.get(family, {})
    guide = seeded_guide(family, story, batch, **options)
    gap = gap_of(guide, story, batch, log_evidence, ENOUGH_STEPS[family], num_starts=1)
    assert -0.02 < gap <= 0.05


@pytest.mark.parametrize(("family", "largest"), [*((f, 0.1) for f in FLOWS), ("mixture", 0.35)])
def test_flows_and_mixtures_start_next_to_mean_field(family, largest):
    story = correlated()
    batch = rows_of(story, 20)  # enough to be standardised
    q = seeded_guide(family, story, batch).posterior(batch)
    u = q.sample((4000,)).detach()
    centred = u - u.mean(0)
    covariance = torch.einsum("sbi,sbj->bij", centred, centred) / len(u)
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = covariance / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    identity = torch.eye(3).double()
    assert float((correlation - identity).abs().max()) < largest


# Rows far from the training set


@cache
def trained_near(family):
    """The correlated story, rows of it, and a guide that a hundred steps on them have trained."""
    story, batch = correlated_rows()
    return story, batch, trained(seeded_guide(family, story, batch), story, batch, 100)


@pytest.mark.parametrize("family", FLOWS)
def test_a_flow_bends_within_bounds_on_rows_far_from_training(family):
    story, batch, guide = trained_near(family)
    far = {"x": 1000 * batch["x"]}
    eps = torch.randn(200, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        near_q, far_q = guide.posterior(batch), guide.posterior(far)
        assert float(far_q.transform.context.abs().max()) < MAX_CONTEXT
        bends = []
        for q in (near_q, far_q):
            v, log_det = q.transform(eps)
            bends.append((v.abs().max(), log_det.abs().max()))
    # Without the squashed context: slopes up to 1e3 in each layer.
    assert float(bends[1][0]) < 100 and float(bends[1][1]) < 20, bends
    found = elbo(story, guide, far, num_particles=100, seed=0).value
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("family", [f for f in CONTINUOUS if f not in NEEDS_SEVERAL_SITES])
@pytest.mark.parametrize("times", [10, 1000])
def test_the_elbo_is_a_bound_of_the_evidences_size_on_rows_far_from_training(family, times):
    story, batch, guide = trained_near(family)
    far = {"x": times * batch["x"]}
    log_evidence = story.log_evidence(far).detach()
    gap = log_evidence - elbo(story, guide, far, num_particles=100, seed=0).value
    assert bool((gap > -0.1).all()), gap
    assert float(gap.mean()) < 30 * float(log_evidence.mean().abs())


# A funnel, two moons


def funnel():
    story, batch = load_story("funnel", {}).double(), {"x": torch.tensor([0.0, 1.0, 3.0]).double()}
    v = torch.linspace(-24.0, 24.0, 4001).double().unsqueeze(-1)
    given_v = torch.distributions.Normal(0.0, (v.exp() + story.noise_scale.detach() ** 2).sqrt())
    log_p = torch.distributions.Normal(0.0, 3.0).log_prob(v) + given_v.log_prob(batch["x"])
    return story, batch, log_p.logsumexp(0) + math.log(48 / 4000)


def moons():
    story = load_story("two_moons", {}).double()
    batch = {
        "distance": torch.tensor([2.0, 1.0, 2.0]).double(),
        "breadth": torch.tensor([2.0, 0.7, 1.0]).double(),
    }
    return story, batch, grid_evidence(story, batch, (-5, -5), (5, 5))


# Affine autoregressive layers (iaf, realnvp) keep the moons in one piece: they find one of two.
@pytest.mark.parametrize(
    ("made", "family", "least"),
    [
        (funnel, "iaf", 0.3),
        pytest.param(funnel, "nsf", 0.3, marks=pytest.mark.slow),
        pytest.param(moons, "planar", math.log(2), marks=pytest.mark.slow),
    ],
)
def test_flows_leave_under_a_quarter_of_mean_fields_gap(made, family, least):
    story, batch, log_evidence = made()
    mean_field = gap_of(seeded_guide("mean_field", story, batch), story, batch, log_evidence, 600)
    num_steps = 600 if family == "iaf" else 1200
    flow = gap_of(seeded_guide(family, story, batch), story, batch, log_evidence, num_steps)
    assert mean_field > least and -0.05 < flow < mean_field / 4, (mean_field, flow)


# Posteriors in pieces


def test_a_mixture_finds_both_signs_and_one_gaussian_is_low_by_log_two():
    batch = {"x": torch.tensor([[0.5], [1.0], [1.5], [2.0]]).double()}
    story = load_story("sign_symmetric", batch).double()
    log_evidence = story.log_evidence(batch).detach()
    mixture = trained(seeded_guide("mixture", story, batch, num_components=2), story, batch, 600)
    assert abs(gap_of(mixture, story, batch, log_evidence, 300)) < 0.05
    single = gap_of(seeded_guide("mean_field", story, batch), story, batch, log_evidence, 600)
    assert single == pytest.approx(math.log(2), abs=0.02)


class Leaning(PyroModule):
    """A number seen by its size, whose prior leans to one side: modes of weight 0.85 and 0.15."""

    def __init__(self):
        super().__init__()
        self.register_buffer("lean", torch.tensor([0.578]).double())

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.lean, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.abs(), 0.3).to_event(1))


def test_equal_weights_come_closer_to_unequal_modes_than_one_gaussian():
    story, batch = Leaning(), {"x": torch.tensor([[1.4], [1.5], [1.6]]).double()}
    log_evidence = grid_evidence(story, batch, (-8,), (8,), nodes=8001)
    mixture = trained(seeded_guide("mixture", story, batch, num_components=8), story, batch, 300)
    single = gap_of(seeded_guide("mean_field", story, batch), story, batch, log_evidence, 600)
    assert single == pytest.approx(-math.log(0.85), abs=0.03)
    assert -0.02 < gap_of(mixture, story, batch, log_evidence, 300) < 0.1


def test_the_closed_form_of_the_sign_symmetric_story_is_its_integral():
    batch = {"x": torch.tensor([[-0.1], [0.0], [0.5], [2.0]]).double()}
    story = load_story("sign_symmetric", batch).double()
    by_grid = grid_evidence(story, batch, (-6,), (6,), nodes=6001)
    torch.testing.assert_close(story.log_evidence(batch).detach(), by_grid, atol=1e-4, rtol=0)


def test_the_gradient_of_a_mixtures_draws_is_that_of_the_exact_moment():
    torch.manual_seed(0)
    locs = torch.tensor([[[-1.0, 0.5], [1.0, 0.0], [0.2, -1.0]]]).double().requires_grad_()
    scales = torch.tensor([[[0.7, 0.5], [0.6, 1.0], [0.9, 0.8]]]).double().requires_grad_()
    moment = ((locs.square() + scales.square())[..., 0] * locs[..., 1]).mean()
    expected = torch.autograd.grad(moment, [locs, scales])
    found = []
    for _ in range(200):
        u = DiagonalMixture(locs, scales).rsample((100,))
        value = (u[..., 0].square() * u[..., 1]).mean()
        found.append(torch.autograd.grad(value, [locs, scales]))
    for exact, draws in zip(expected, zip(*found, strict=True), strict=True):
        draws = torch.stack(draws)
        error = draws.std(0) / len(draws) ** 0.5
        assert bool(((draws.mean(0) - exact).abs() < 4 * error + 1e-12).all())


def test_weights_learnt_along_the_path_of_parted_components_drown_in_noise():
    """Why `Mixture` has equal weights: draws would have to carry mass over empty land, where hardly
    any of them is."""

    def log_joint(z):  # modes of weight 0.85 and 0.15
        return dist.Normal(0.578, 1.0).log_prob(z[..., 0]) + dist.Normal(1.5, 0.3).log_prob(
            z[..., 0].abs()
        )

    torch.manual_seed(0)
    locs, scales = torch.tensor([[-1.3], [1.4]]).double(), torch.full((2, 1), 0.29).double()
    logits = torch.zeros(1000, 2).double().requires_grad_()  # a thousand gradients side by side
    q = dist.MixtureOfDiagNormals(locs.expand(1000, 2, 1), scales.expand(1000, 2, 1), logits)
    u = q.rsample((16,))
    elbo_of_path = (log_joint(u) - q.log_prob(u)).mean(0)
    path = torch.autograd.grad(elbo_of_path.sum(), logits, retain_graph=True)[0][:, 1]
    u = (locs + scales * torch.randn(8, 1000, 2, 1).double()).movedim(2, 1)  # as many from each
    log_w = (log_joint(u) - q.log_prob(u)).mean(0)  # (2, 1000)
    strata = torch.autograd.grad((logits.softmax(-1) * log_w.T).sum(), logits)[0][:, 1]
    assert float(strata.mean()) > 0.3 and float(strata.std()) < 0.05
    assert float(path.std()) > 100 * float(strata.std()), (path.std(), strata.std())


def test_particles_for_a_gradient_visit_the_components_evenly():
    torch.manual_seed(0)
    locs = torch.tensor([[[-100.0], [0.0], [100.0]]]).expand(5, 3, 1)
    q = DiagonalMixture(locs, torch.ones_like(locs))
    for draws in (q.rsample((9,)), q.expand((9, 5)).rsample()):
        counts = torch.stack([(draws - c).abs().lt(50).sum(0) for c in (-100, 0, 100)])
        assert bool((counts == 3).all())
    counts = (q.sample((9,)).abs() < 50).sum(0)
    assert not bool((counts == 3).all())


# Errors


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("low_rank", {"rank": 0}, "rank of at least 1, got 0"),
        ("householder", {"num_steps": 0}, "num_steps of at least 1, got 0"),
        ("mixture", {"num_components": 1}, "at least two components.*mean_field"),
        ("nsf", {"num_layers": 0}, "num_layers.*at least 1, got 0"),
    ],
)
def test_a_size_that_makes_no_family_is_an_error(family, options, message):
    story, batch = correlated_rows()
    with pytest.raises(ValueError, match=message):
        seeded_guide(family, story, batch, **options)
