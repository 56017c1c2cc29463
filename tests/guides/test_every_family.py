r"""Families × constrained supports: densities over the supports themselves, single precision,
batching, files."""

import pyro
import pytest
import torch
from built import built
from families import CONTINUOUS, ESTIMATED, pairs
from torch.func import grad, vmap

import ppvae
from ppvae import guides

NUM_ROWS = 12
CONSTRAINED = ("log_normal", "heavy_tail", "bounded", "unit_interval", "positive", "simplex")


def half_line(t):
    """(0, 1) onto the positive numbers, and the size of the cells there; knows nothing of
    `biject_to`."""
    return t / (1 - t), (1 - t) ** -2


def interval(t):
    return 5 * t - 2, torch.full_like(t, 5.0)


ONE = {"size": half_line, "tau": half_line, "p": lambda t: (t, torch.ones_like(t))}
TWO = {"rate": half_line, "angle": interval}


def grid_over(key, num_nodes):
    """Nodes in the support of a site, `(G, *event)`, and the size of each one's cell, `(G,)`."""
    t = (torch.arange(num_nodes).double() + 0.5) / num_nodes
    if key in ONE:
        value, size = ONE[key](t)
        return value, size / num_nodes
    one, two = torch.cartesian_prod(t, t).unbind(-1)
    if key in TWO:
        (first, wide), (second, high) = TWO[key](one), TWO[key](two)
        return torch.stack([first, second], -1), wide * high / num_nodes**2
    share = torch.stack([one, (1 - one) * two, (1 - one) * (1 - two)], -1)
    return share, (1 - one) / num_nodes**2


@pytest.mark.parametrize("family", ["mean_field", "mixture"])
@pytest.mark.parametrize("name", CONSTRAINED)
def test_the_density_over_the_support_itself_integrates_to_one(name, family):
    _, batch, guide = built(name, family)
    (key,) = guide.flat.sites
    value, cell = grid_over(key, 20_000 if key in ONE else 250)
    value = value.unsqueeze(1).expand(-1, 2, *value.shape[1:])
    batch = {k: v[:2] for k, v in batch.items()}
    with torch.no_grad():
        u = guide.flat.flatten({key: value})
        log_guide = guide.posterior(batch).log_prob(u) - guide.flat.unflatten(u)[1]
    total = (log_guide.exp() * cell.unsqueeze(-1)).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("name", "family"), pairs(*CONSTRAINED, "ordered", "correlation"))
def test_single_precision_draws_in_the_support_and_scores_as_double_does(name, family):
    torch.manual_seed(0)
    story, batch, guide = built(name, family)
    (key,) = guide.flat.sites
    with torch.no_grad():
        q = guide.posterior(batch)
        u = q.sample((5,)).clone()
        expected = q.log_prob(u), *guide.flat.unflatten(u)
        single = guides.build(
            family, story.float(), {k: v.float() for k, v in batch.items()}, hidden=(16,)
        )
        single.load_state_dict(guide.state_dict())
        found = single.posterior({k: v.float() for k, v in batch.items()})
        own = single.flat.unflatten(found.sample((200,)))[0][key]
        value, log_det = single.flat.unflatten(u.float())
    assert own.dtype == torch.float32 and bool(guide.flat.sites[key].support.check(own).all())
    torch.testing.assert_close(value[key].double(), expected[1][key], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_det.double(), expected[2], rtol=1e-4, atol=1e-4)
    if family not in ESTIMATED:  # an average over draws of its own
        torch.testing.assert_close(
            found.log_prob(u.float()).double(), expected[0], rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("family", [f for f in CONTINUOUS if f not in ESTIMATED])
def test_torch_func_gives_each_rows_gradient(family):
    _, batch, guide = built("two_sites", family)
    with torch.no_grad():
        parameters = {k: v.requires_grad_() for k, v in guide.parameters_of(batch).items()}
        u = torch.randn(
            NUM_ROWS, guide.flat.dim, generator=torch.Generator().manual_seed(0)
        ).double()

    def log_prob_of_a_row(parameters, u):
        one = {k: v.unsqueeze(0) for k, v in parameters.items()}
        return guide.distribution(one).log_prob(u.unsqueeze(0))[0]

    with pyro.validation_enabled(False):
        found = vmap(grad(log_prob_of_a_row))(parameters, u)
        total = guide.distribution(parameters).log_prob(u).sum()
    expected = torch.autograd.grad(total, list(parameters.values()))
    for one, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("family", CONTINUOUS)
def test_a_guide_comes_back_from_a_file(family, tmp_path):
    story, batch, guide = built("two_sites", family)
    ppvae.save(tmp_path / "weights", story, guide)
    other_story, _, other = built("two_sites", family, seed=1)
    before = ppvae.elbo(other_story, other, batch, seed=0).value
    ppvae.load(tmp_path / "weights", other_story, other)
    expected, found = (
        ppvae.elbo(s, g, batch, seed=0).value for s, g in ((story, guide), (other_story, other))
    )
    assert torch.equal(expected, found) and not torch.equal(before, found)
