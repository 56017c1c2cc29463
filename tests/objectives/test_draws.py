"""Paths: what comes back to the guide through its draws, and what through its density."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from stories import CASES, rows_of
from torch import nn

import ppvae
from ppvae import guides, objectives
from ppvae.problem import Problem
from ppvae.problem.draws import draw_detached, draw_path, draw_with_frozen_density
from ppvae.story import local_params, seeded_eval

NAMES = ("two_sites", "deep_plates", "inner_explicit", "global_plate", "simplex", "names")


def made(case, family):
    story = CASES[case].story()
    batch = rows_of(CASES[case], story)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = guides.build(family, story, batch, hidden=(8,))
        with torch.no_grad():
            for parameter in guide.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return Problem.of(story, guide, batch)


def reaches(total, guide):
    gradients = torch.autograd.grad(total, list(guide.parameters()), allow_unused=True)
    return [g is not None and bool((g != 0).any()) for g in gradients]


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("family", ["mean_field", "full_rank", "mixture", "iaf"])
def test_a_held_guide_scores_its_draws_as_it_drew_them(case, family):
    if family == "iaf" and case in ("global_plate",):
        pytest.skip("one latent number a row")
    problem = made(case, family)
    guide = problem.guide
    with problem.eval_mode(0):
        free, held = draw_with_frozen_density(problem, 3)
    torch.testing.assert_close(held.local, free.local, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(held.shared, free.shared)
    for name, value in free.values.items():
        assert torch.equal(held.values[name], value)
    assert any(reaches(held.local.sum(), guide))  # along the draws
    assert all(p.requires_grad for p in guide.parameters())
    with problem.eval_mode(0):
        _, cut = draw_with_frozen_density(
            problem, 3, edit=lambda name, value, layout, particle: value.detach()
        )
    assert not cut.local.requires_grad  # and along nothing else


@pytest.mark.parametrize("family", ["mean_field", "full_rank", "iaf"])
def test_detached_draws_leave_a_path_through_the_density_alone(family):
    problem = made("two_sites", family)
    guide = problem.guide
    with problem.eval_mode(0):
        drawn = draw_detached(problem, 3)
    assert not any(v.requires_grad for v in drawn.values.values())
    assert all(reaches(drawn.local.square().sum(), guide))


def test_particles_share_one_draw_of_a_global_site_where_they_are_told_to():
    problem = made("global_plate", "mean_field")
    with problem.eval_mode(0):
        isolated = draw_path(problem, 4)
        shared = draw_path(problem, 4, share_globals=True)
    for name in ("gain", "bias"):
        assert bool((isolated.values[name][0] != isolated.values[name][1]).all())
        assert torch.equal(
            shared.values[name], shared.values[name][:1].expand_as(isolated.values[name])
        )
    assert bool((shared.values["z"][0] != shared.values["z"][1]).all())
    torch.testing.assert_close(shared.shared, shared.shared[:1].expand(4))


class Forgetful(nn.Module):
    """An encoder that drops units: it must drop the same ones when it scores what it drew."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 4))

    def forward(self, x):
        return self.net(x)


def test_an_encoder_with_dropout_drops_the_same_units_in_both_runs():
    story = CASES["two_sites"].story()
    batch = rows_of(CASES["two_sites"], story)
    guide = guides.build("mean_field", story, batch, encoder=Forgetful())
    guide.train()
    free, held = draw_with_frozen_density(Problem.of(story, guide, batch), 2)
    torch.testing.assert_close(held.local, free.local)


def chained_pair():
    """Somebody else's pair: a chain of two sites that knows no particle dimension (it insists on
    two dimensions)."""

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            assert_flat(a)
            b = pyro.sample("b", dist.Normal(a, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(b, 0.5).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.full((2,), 0.4).double())
        scale = pyro.param(
            "scale", torch.full((2,), 0.6).double(), constraint=dist.constraints.positive
        )
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(slope * x, scale).to_event(1))
            assert_flat(a)
            pyro.sample("b", dist.Normal(slope * (x + a), scale).to_event(1))

    def assert_flat(value):
        if value.dim() != 2:
            raise ValueError("expected no particles")

    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).repeat(
        40, 1
    )
    return (*ppvae.adopt(model, guide, example=x), {"x": x})


@pytest.mark.parametrize("name", ["stl", "dreg", "iwae", "vimco", "score_function"])
def test_an_adopted_chain_that_knows_no_particles_is_trained_like_one_that_does(name):
    story, guide, batch = chained_pair()

    class Chain(PyroModule):
        def forward(self, n):
            with pyro.plate("data", n):
                a = pyro.sample("a", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
                b = pyro.sample("b", dist.Normal(a, 1.0).to_event(1))
                pyro.sample("x", dist.Normal(b, 0.5).to_event(1))

    class ChainGuide(PyroModule):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.full((2,), 0.4).double())
            self.log_scale = nn.Parameter(torch.full((2,), 0.6).double().log())

        def forward(self, batch):
            x, scale = batch["x"], self.log_scale.exp()
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Normal(self.slope * x, scale).to_event(1))
                pyro.sample("b", dist.Normal(self.slope * (x + a), scale).to_event(1))

    def mean_gradient(story, guide):
        objective = objectives.build(name, story, guide, batch, num_particles=3)
        total = 0.0
        with local_params(story, guide), seeded_eval(0, story, guide):
            seen = [
                torch.autograd.grad(objective(batch), list(guide.parameters())) for _ in range(25)
            ]
        total = torch.stack([torch.cat(g) for g in seen])
        return total.mean(0), total.std(0) / len(seen) ** 0.5

    (one, error), (two, other) = mean_gradient(story, guide), mean_gradient(Chain(), ChainGuide())
    assert float(((one - two) / (error.square() + other.square()).sqrt()).abs().max()) < 4
