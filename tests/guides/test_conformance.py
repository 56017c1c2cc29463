r"""Every guide on every story: supports, shapes, densities, gradients, state, precision."""

import pyro
import pytest
import torch
from families import CONTINUOUS, ESTIMATED, GRID, NEEDS_SEVERAL_SITES, NEEDS_TWO, pairs
from pyro.infer import Trace_ELBO
from stories import CASES, rows_of

from ppvae import guides
from ppvae.problem.weights import check_pair, score
from ppvae.story import local_params, log_joint, observe, scale_rows, trace_sites

NUM_ROWS, NUM_PARTICLES = 12, 5
every_pair = pytest.mark.parametrize(("name", "family"), pairs(*CASES))
amortized_or_local = pytest.mark.parametrize("local", [False, True], ids=["amortized", "local"])


@pytest.fixture(autouse=True)
def empty_store():
    """Other tests may have used Pyro's global parameter store."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def made(name, family, seed=0, **options):
    """A story, rows of it, and a guide whose parameters are away from their special start."""
    case = CASES[name]
    story = case.story()
    batch = rows_of(case, story, NUM_ROWS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        guide = guides.build(family, story, batch, hidden=(16,), **options)
        with torch.no_grad():
            for parameter in guide.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return story, batch, guide


@amortized_or_local
@every_pair
def test_draws_lie_in_the_supports_and_are_scored_by_the_posterior(name, family, local):
    torch.manual_seed(0)
    story, batch, guide = made(name, family)
    story.eval()
    guide = guide.local(batch) if local else guide
    sites = trace_sites(story, batch)
    with torch.no_grad():
        scores = score(story, guide, batch, NUM_PARTICLES, sites=sites)
        assert scores.log_weights.shape == (NUM_PARTICLES, NUM_ROWS)
        for key, site in sites.latent.items():
            lead = (NUM_PARTICLES, NUM_ROWS) if site.is_local else (NUM_PARTICLES,)
            assert scores.latents[key].shape == lead + tuple(site.row_shape)
            assert bool(site.support.check(scores.latents[key]).all())
        u = guide.flat.flatten(scores.latents)
        again, log_det = guide.flat.unflatten(u)
        for key in again:
            torch.testing.assert_close(again[key], scores.latents[key])
        if family in ESTIMATED:
            return  # what its draws are scored by is held in test_auxiliary.py
        log_guide = guide.posterior(batch).log_prob(u) - log_det
        by_hand = log_joint(story, batch, scores.latents) - log_guide
    torch.testing.assert_close(scores.log_weights, by_hand, rtol=1e-6, atol=1e-6)


@amortized_or_local
@every_pair
def test_the_gradient_reaches_every_parameter(name, family, local):
    torch.manual_seed(0)
    story, batch, guide = made(name, family)
    guide = guide.local(batch) if local else guide
    model = scale_rows(observe(story), 2 * NUM_ROWS)
    with local_params(story, guide):
        loss = Trace_ELBO(num_particles=2).differentiable_loss(
            model, scale_rows(guide, 2 * NUM_ROWS), batch
        )
    loss.backward()
    decoders = [(k, p) for k, p in story.named_parameters() if k != "noise_unconstrained"]
    for key, parameter in [*decoders, *guide.named_parameters()]:
        assert parameter.grad is not None and bool((parameter.grad != 0).any()), key
        assert bool(torch.isfinite(parameter.grad).all()), key
        if local and parameter.shape[:1] == (NUM_ROWS,):
            assert bool((parameter.grad.flatten(1) != 0).any(-1).all()), f"{key}: not in every row"
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize(("name", "family"), pairs("log_normal", "bounded", "positive", "chain"))
def test_the_posterior_integrates_to_one(name, family):
    _, batch, guide = made(name, family)
    batch = {k: v[:2] for k, v in batch.items()}
    num_nodes, tolerance = GRID.get(family, (101, 1e-4))
    for one in (guide, guide.local(batch)):
        with torch.no_grad():
            q = one.posterior(batch)
            draws = q.sample((500,))
            low, high = draws.amin((0, 1)) - 3, draws.amax((0, 1)) + 3
            steps = [
                torch.linspace(float(a), float(b), num_nodes).double()
                for a, b in zip(low, high, strict=True)
            ]
            grid = torch.cartesian_prod(*steps).reshape(-1, 1, len(steps))
            cell = torch.stack([s[1] - s[0] for s in steps]).prod()
            total = q.log_prob(grid.expand(-1, 2, -1)).exp().sum(0) * cell
        torch.testing.assert_close(total, torch.ones_like(total), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "family"), pairs("bounded", "simplex", "chain"))
def test_draws_have_the_mean_that_the_density_says(name, family):
    torch.manual_seed(0)
    _, batch, guide = made(name, family)
    with torch.no_grad():
        q = guide.posterior({k: v[:2] for k, v in batch.items()})
        u = q.sample((5000,))
        wide = torch.distributions.Normal(u.mean(0), 2 * u.std(0))
        v = wide.sample((5000,))
        weights = (q.log_prob(v) - wide.log_prob(v).sum(-1)).exp().unsqueeze(-1)
    error = ((u.var(0) + (weights * v).var(0)) / 5000).sqrt()
    assert bool(((u.mean(0) - (weights * v).mean(0)).abs() < 4.5 * error).all())


@every_pair
def test_a_saved_guide_loads_into_a_new_one(name, family):
    _, batch, guide = made(name, family)
    other = made(name, family, seed=1)[2]
    other.load_state_dict(guide.state_dict())
    u = torch.zeros(NUM_ROWS, guide.flat.dim).double()
    with torch.no_grad():
        expected, found = (g.posterior(batch).log_prob(u) for g in (guide, other))
    assert torch.equal(expected, found)


@pytest.mark.parametrize("family", CONTINUOUS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_guide_takes_the_storys_precision(family, dtype):
    story = CASES["inner_explicit"].story().to(dtype)
    batch = {k: v.to(dtype) for k, v in rows_of(CASES["inner_explicit"], story).items()}
    guide = guides.build(family, story, {k: v.numpy() for k, v in batch.items()})
    for one in (guide, guide.local(batch)):
        assert {p.dtype for p in one.parameters()} == {dtype}
        assert score(story, one, batch, 2).log_weights.dtype == dtype


@every_pair
def test_a_row_does_not_see_the_others(name, family):
    _, batch, guide = made(name, family)
    with torch.no_grad():
        together = guide.posterior(batch)
        u = together.sample((2,)).clone()
        first = guide.posterior({k: v[:1] for k, v in batch.items()})
        torch.testing.assert_close(first.log_prob(u[:, :1]), together.log_prob(u)[:, :1])


@every_pair
def test_a_single_row_and_a_single_particle_are_enough(name, family):
    story, batch, guide = made(name, family)
    one = {k: v[:1] for k, v in batch.items()}
    check_pair(story, guide, one)
    assert score(story, guide, one, 1).log_weights.shape == (1, 1)


# Errors


def test_an_unknown_guide_is_an_error_that_lists_the_known():
    story, batch, _ = made("scalar", "mean_field")
    with pytest.raises(ValueError, match=r"mean_field, full_rank, .*iaf.*got 'flow'"):
        guides.build("flow", story, batch)


def test_an_unknown_option_is_an_error_that_lists_the_known():
    story, batch, _ = made("two_sites", "mean_field")
    with pytest.raises(
        ValueError,
        match=r"'mean_field'.*denoising, encoder, hidden, name, weight_norm; got \['layers'\]",
    ):
        guides.build("mean_field", story, batch, layers=3)
    with pytest.raises(ValueError, match=r"'iaf'.*context.*hidden.*num_layers.*got \['layers'\]"):
        guides.build("iaf", story, batch, layers=3)


@pytest.mark.parametrize("family", sorted(NEEDS_TWO))
def test_a_flow_over_one_number_is_an_error(family):
    with pytest.raises(ValueError, match="at least two latent numbers"):
        made("scalar", family)


@pytest.mark.parametrize("family", [f for f in CONTINUOUS if f not in NEEDS_SEVERAL_SITES])
def test_a_latent_site_with_infinitely_many_values_is_named(family):
    story = CASES["several_observed"].story()
    batch = rows_of(CASES["several_observed"], story)
    del batch["count"]
    with pytest.raises(ValueError, match=r"site 'count'.*infinitely many values.*in the guide"):
        guides.build(family, story, batch)


def test_a_story_with_nothing_latent_in_the_plate_is_an_error():
    story, batch, _ = made("two_sites", "mean_field")
    shown = {**batch, "a": torch.zeros(NUM_ROWS), "b": torch.zeros(NUM_ROWS, 2)}
    with pytest.raises(ValueError, match="latent site inside the plate 'data'"):
        guides.build("mean_field", story, shown)


def test_a_local_guide_serves_only_its_own_rows():
    _, batch, guide = made("two_sites", "mean_field")
    local = guide.local(batch)
    with pytest.raises(ValueError, match=r"the 12 rows .*got 3; call guide.local\(batch\)"):
        local.posterior({k: v[:3] for k, v in batch.items()})
