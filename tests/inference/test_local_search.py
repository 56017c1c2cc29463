r"""Guides without amortization: they start at the encoder's answer, and rows do not touch."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from built import built
from families import CONTINUOUS, pairs
from pyro.nn import PyroModule
from test_summing import GaussianMixture
from torch import nn

import ppvae
from ppvae import guides
from ppvae.guides.autoregressive import AutoregressiveTransport
from ppvae.guides.pushforward import RowNetworks
from ppvae.inference import optimize_local, unamortized
from ppvae.inference.elbo_ascent import WINDOW, Plateau
from ppvae.problem import Problem

NUM_ROWS = 12


def made(name, family):
    return built(name, family, moved=0.2, num_rows=NUM_ROWS)


@pytest.mark.parametrize(("name", "family"), pairs("two_sites", "inner_explicit", "simplex"))
def test_a_local_guide_starts_at_the_amortized_answer(name, family):
    _, batch, guide = made(name, family)
    local = guide.local(batch)
    torch.manual_seed(0)
    u = guide.posterior(batch).sample((3,))
    torch.manual_seed(0)
    v = local.posterior(batch).sample((3,))
    torch.testing.assert_close(u, v)
    expected, found = (g.posterior(batch).log_prob(u) for g in (guide, local))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", CONTINUOUS)
def test_the_parameters_of_one_row_move_that_row_alone(family):
    _, batch, guide = made("two_sites", family)
    local = guide.local(batch)
    with torch.no_grad():
        u = local.posterior(batch).sample((3,))
        before = local.posterior(batch).log_prob(u)
        for parameter in local.parameters():
            assert parameter.shape[0] == NUM_ROWS
            parameter[4] += 0.5
        after = local.posterior(batch).log_prob(u)
    moved = ((after - before).abs() > 1e-9).any(0)
    assert moved.tolist() == [row == 4 for row in range(NUM_ROWS)]


KINDS = pytest.mark.parametrize(
    ("kinds", "passes"),
    [(("affine",) * 2, None), (("affine",) * 2, 2), (("spline", "affine"), None)],
    ids=["iaf", "realnvp", "nsf"],
)


@KINDS
def test_networks_of_each_row_equal_the_shared_ones_while_the_weights_are_copies(kinds, passes):
    torch.manual_seed(0)
    shared = AutoregressiveTransport(3, 4, kinds, (8,), passes).double()
    with torch.no_grad():
        for parameter in shared.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    weights = {k: w.detach().expand(5, *w.shape) for k, w in shared.named_parameters()}
    each = RowNetworks(shared, weights)
    eps, context = torch.randn(7, 5, 3).double(), torch.randn(5, 4).double()
    v, log_det = shared(eps, context.expand(7, 5, 4))
    torch.testing.assert_close(each(eps, context.expand(7, 5, 4)), (v, log_det))
    torch.testing.assert_close(each.inverse(v, context.expand(7, 5, 4)), eps)
    torch.testing.assert_close(shared.inverse(v, context.expand(7, 5, 4)), eps)


@KINDS
def test_the_flows_log_determinant_is_that_of_its_jacobian(kinds, passes):
    torch.manual_seed(0)
    flow = AutoregressiveTransport(3, 4, kinds, (8,), passes).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    eps, context = torch.randn(3).double(), torch.randn(4).double()
    jacobian = torch.autograd.functional.jacobian(lambda e: flow(e, context)[0], eps)
    torch.testing.assert_close(flow(eps, context)[1], jacobian.slogdet()[1])


def test_the_amortized_guide_keeps_its_parameters_and_their_names():
    story, batch, guide = made("global", "mean_field")
    before = {k: v.clone() for k, v in guide.state_dict().items()}
    name = guide.global_guide._pyro_name
    local = guide.local(batch)
    Problem.of(story, local, batch).score(2)
    with pytest.raises(ValueError, match=r"search for q\*.*global sites \['level'\]"):
        optimize_local(story, local, max_steps=40)
    assert guide.global_guide._pyro_name == name
    assert all(torch.equal(v, before[k]) for k, v in guide.state_dict().items())


@pytest.mark.parametrize("family", CONTINUOUS)
def test_the_search_for_q_star_gains_and_leaves_the_story_alone(family):
    story, batch, guide = made("two_sites", family)
    before = [p.clone() for p in story.parameters()]
    local = guide.local(batch)
    found = optimize_local(story, local, max_steps=80)
    assert found.gain.shape == (NUM_ROWS,) and float(found.gain.mean()) > 0.1
    assert all(torch.equal(a, b) for a, b in zip(before, story.parameters(), strict=True))
    assert all(p.grad is None for p in story.parameters())


# Somebody else's guides


class Own(PyroModule):
    """Independent sites on their own supports, as tutorials write them; one site has a dot in its
    name.
    """

    def __init__(self):
        super().__init__(name="own")
        self.net = nn.Linear(2, 8).double()

    def forward(self, batch):
        place, keys, loc, scale = self.net(batch["encoder"]).split([2, 2, 2, 2], -1)
        with pyro.plate("data", len(place)):
            pyro.sample("place", dist.Normal(place[..., 0], place[..., 1].exp()))
            pyro.sample("keys", dist.LogNormal(keys[..., 0], keys[..., 1].exp()))
            pyro.sample("rows.loc", dist.Normal(loc, scale.exp()).to_event(1))


def test_anybodys_guide_has_a_local_version_that_starts_at_its_answer():
    torch.manual_seed(0)
    story, batch, _ = made("names", "mean_field")
    own = Own()
    local = unamortized(own, batch, story)
    assert local.is_unamortized
    with torch.no_grad():
        scores = Problem.of(story, own, batch).score(4)
        u = local.flat.flatten(scores.latents)
        log_det = local.flat.unflatten(u)[1]
        log_guide = local.posterior(batch).log_prob(u) - log_det
        torch.testing.assert_close(log_guide, scores.log_guide)
        again = Problem.of(story, local, batch).score(4)
        u = local.flat.flatten(again.latents)
        log_guide = local.posterior(batch).log_prob(u) - local.flat.unflatten(u)[1]
        torch.testing.assert_close(log_guide, again.log_guide)
    assert float(optimize_local(story, local, max_steps=80).gain.mean()) > 0.1


def test_a_guide_whose_sites_depend_on_each_other_is_named():
    class Chained(PyroModule):
        def forward(self, batch):
            with pyro.plate("data", len(batch["x"])):
                z2 = pyro.sample("z2", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
                pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))

    story, batch, _ = made("hierarchical", "mean_field")
    with pytest.raises(ValueError, match=r"site 'z1'.*loc that depends on another draw"):
        unamortized(Chained(), batch, story)


def test_a_guide_with_inner_plates_is_named():
    class Inner(PyroModule):
        def forward(self, batch):
            n = len(batch["x"])
            with pyro.plate("data", n):
                pyro.sample("z", dist.Normal(torch.zeros(n).double(), 1.0))
                with pyro.plate("parts", 4):
                    pyro.sample("w", dist.LogNormal(torch.zeros(4, n).double(), 1.0))

    story, batch, _ = made("inner_auto", "mean_field")
    assert Problem.of(story, Inner(), batch).score(3).log_weights.shape == (3, NUM_ROWS)
    with pytest.raises(ValueError, match=r"site 'w'.*inner plates.*ppvae.guides"):
        unamortized(Inner(), batch, story)


def test_a_row_that_falls_below_its_best_window_goes_back_to_it():
    place = torch.zeros(2, 1)
    progress = Plateau([place], tolerance=0.01, max_length=WINDOW)
    noise = torch.randn(2 * WINDOW, 2, generator=torch.Generator().manual_seed(0))
    for step, eps in enumerate(noise):
        late = step >= WINDOW
        place.fill_(1.0 + late)
        progress.is_reached(torch.tensor([0.0, -50.0 if late else 0.0]) + eps, last=False)
    progress.average_last_window()
    assert place.flatten().tolist() == [2.0, 1.0]
    progress.is_reached(torch.tensor([0.0, torch.nan]), last=True)
    place.fill_(torch.nan)
    progress.restore_best()
    assert float(place[1]) == 1.0


def test_a_foreign_guide_that_draws_discrete_sites_has_no_local_version():
    class Drawing(PyroModule):
        def forward(self, batch):
            with pyro.plate("data", len(batch["x"])):
                pyro.sample("k", dist.Categorical(torch.ones(3).double()))

    story = GaussianMixture().double()
    x = ppvae.simulate(story, 4, seed=0)["x"]
    with pytest.raises(ValueError, match=r"draws the discrete \['k'\]"):
        unamortized(Drawing(), {"x": x}, story)


def test_a_search_without_a_step_or_particles_to_compare_is_refused():
    story, batch, guide = made("two_sites", "mean_field")
    with pytest.raises(ValueError, match="max_steps of at least 1"):
        guide.local(batch).optimize(story, max_steps=0)
    mixture = GaussianMixture().double()
    x = {"x": ppvae.simulate(mixture, 4, seed=0)["x"]}
    drawn = guides.build("categorical", mixture, x, hidden=(4,)).local(x)
    with pytest.raises(ValueError, match="at least 2 particles"):
        drawn.optimize(mixture, num_particles=1)
