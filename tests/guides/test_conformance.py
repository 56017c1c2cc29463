r"""Every guide on the stories that tell most, every story under two guides: the guide contract."""

import pyro
import pytest
import torch
from built import built
from families import (
    CONTINUOUS,
    ESTIMATED,
    GRID,
    NEEDS_TWO,
    covering_pairs,
    pairs,
    suits,
)
from pyro.infer import Predictive, Trace_ELBO
from stories import CASES, rows_of
from torch.func import grad, vmap

import ppvae
from ppvae import guides
from ppvae.problem import Problem
from ppvae.story import local_params, log_joint, observe, scale_rows, trace_sites

NUM_ROWS, NUM_PARTICLES = 12, 5


def first_rows(batch, num_rows):
    return {key: value[:num_rows] for key, value in batch.items()}


@pytest.mark.parametrize(("name", "family"), covering_pairs())
def test_a_pair_keeps_the_contract(name, family, tmp_path, empty_store):
    torch.manual_seed(0)
    few = {"num_nodes": 16} if family in ESTIMATED else {}  # no density is compared below
    story, batch, guide = built(name, family, **few)
    local = guide.local(batch)
    for one in (guide, local):
        the_gradient_reaches_every_parameter(story, one, batch)
    story.eval()
    for one in (guide, local):
        draws_lie_in_the_supports_and_are_scored_by_the_posterior(story, one, batch, family)
    rows_do_not_see_each_other(guide, batch)
    one_row_and_one_particle_are_enough(story, guide, batch)
    predictive_draws_every_site(story, guide, batch)
    a_saved_guide_loads_into_a_new_one(story, guide, batch, built(name, family, 1, **few), tmp_path)
    single_precision_draws_and_scores_as_double_does(name, family, guide, batch)
    if family not in ESTIMATED:
        torch_func_gives_each_rows_gradient(guide, batch)


def the_gradient_reaches_every_parameter(story, guide, batch):
    story.zero_grad(set_to_none=True)
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
        if guide.is_unamortized and parameter.shape[:1] == (NUM_ROWS,):
            assert bool((parameter.grad.flatten(1) != 0).any(-1).all()), f"{key}: not in every row"
    assert len(pyro.get_param_store()) == 0


@torch.no_grad()
def draws_lie_in_the_supports_and_are_scored_by_the_posterior(story, guide, batch, family):
    sites = trace_sites(story, batch)
    scores = Problem.of(story, guide, batch).score(NUM_PARTICLES)
    assert scores.log_weights.shape == (NUM_PARTICLES, NUM_ROWS)
    for key, site in sites.latent.items():
        lead = (NUM_PARTICLES, NUM_ROWS) if site.is_local else (NUM_PARTICLES,)
        assert scores.latents[key].shape == lead + tuple(site.row_shape)
        assert bool(site.support.check(scores.latents[key]).all()), f"{key} out of its support"
    u = guide.flat.flatten(scores.latents)
    again, log_det = guide.flat.unflatten(u)
    for key in again:
        torch.testing.assert_close(again[key], scores.latents[key])
    if family in ESTIMATED:
        return  # what its draws are scored by is held in test_auxiliary.py
    log_guide = guide.posterior(batch).log_prob(u) - log_det
    by_hand = log_joint(story, batch, scores.latents) - log_guide
    torch.testing.assert_close(scores.log_weights, by_hand, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def rows_do_not_see_each_other(guide, batch):
    together = guide.posterior(first_rows(batch, 3))
    u = together.sample((2,)).clone()
    first = guide.posterior(first_rows(batch, 1))
    torch.testing.assert_close(first.log_prob(u[:, :1]), together.log_prob(u)[:, :1])


def one_row_and_one_particle_are_enough(story, guide, batch):
    one = first_rows(batch, 1)
    Problem.of(story, guide, one)
    assert Problem.of(story, guide, one).score(1).log_weights.shape == (1, 1)


@torch.no_grad()
def predictive_draws_every_site(story, guide, batch):
    for parallel in (False, True):
        drawn = Predictive(observe(story), guide=guide, num_samples=3, parallel=parallel)(batch)
        for key in trace_sites(story, batch).latent:
            assert drawn[key].shape[0] == 3 and torch.isfinite(drawn[key]).all(), key


@torch.no_grad()
def a_saved_guide_loads_into_a_new_one(story, guide, batch, others, folder):
    other_story, _, other = others
    batch, u = first_rows(batch, 2), torch.zeros(2, guide.flat.dim).double()
    expected, before = (g.posterior(batch).log_prob(u) for g in (guide, other))
    ppvae.save(folder / "weights", story, guide)
    ppvae.load(folder / "weights", other_story, other)
    assert torch.equal(other.posterior(batch).log_prob(u), expected)
    assert not torch.equal(before, expected)


@torch.no_grad()
def single_precision_draws_and_scores_as_double_does(name, family, guide, batch):
    story, rows = CASES[name].story().float(), {k: v.float() for k, v in batch.items()}
    single = guides.build(family, story, {k: v.numpy() for k, v in rows.items()}, hidden=(16,))
    single.load_state_dict(guide.state_dict())
    for one, dtype in ((guide, torch.float64), (single, torch.float32)):
        given = rows if one is single else batch
        for q in (one, one.local(given)):
            assert {p.dtype for p in q.parameters()} == {dtype}
    assert Problem.of(story, single, rows).score(2).log_weights.dtype == torch.float32
    q = guide.posterior(batch)
    u = q.sample((5,)).clone()
    expected, log_det = guide.flat.unflatten(u)
    value, log_det_of_single = single.flat.unflatten(u.float())
    found = single.posterior(rows)
    own = single.flat.unflatten(found.sample((200,)))[0]
    for key, site in guide.flat.sites.items():
        assert own[key].dtype == torch.float32 and bool(site.support.check(own[key]).all()), key
        torch.testing.assert_close(value[key].double(), expected[key], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_det_of_single.double(), log_det, rtol=1e-4, atol=1e-4)
    # Torch draws 16 numbers and more otherwise in the two precisions, so that steps differ too.
    own_steps = family == "semi_amortized" and guide.flat.dim > 3
    if family not in ESTIMATED and not own_steps:  # the former averages over draws of its own
        log_prob = found.log_prob(u.float()).double()
        torch.testing.assert_close(log_prob, q.log_prob(u), rtol=1e-3, atol=1e-3)


def torch_func_gives_each_rows_gradient(guide, batch):
    with torch.no_grad():
        parameters = {k: v.requires_grad_() for k, v in guide.parameters_of(batch).items()}
    u = torch.randn(NUM_ROWS, guide.flat.dim, generator=torch.Generator().manual_seed(0)).double()

    def log_prob_of_a_row(parameters, u):
        one = {k: v.unsqueeze(0) for k, v in parameters.items()}
        return guide.distribution(one).log_prob(u.unsqueeze(0))[0]

    with pyro.validation_enabled(False):
        found = vmap(grad(log_prob_of_a_row))(parameters, u)
        total = guide.distribution(parameters).log_prob(u).sum()
    expected = torch.autograd.grad(total, list(parameters.values()))
    for one, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(one, other)


# Densities: of two latent numbers, one hanging on the other, and in a bounded square


DENSITIES = [("log_normal", "mean_field"), *pairs("bounded", "chain")]
DENSITIES.remove(("chain", "auxiliary"))  # slow, and the same code as on the square


@pytest.mark.parametrize(("name", "family"), DENSITIES)
def test_the_posterior_integrates_to_one_and_has_the_mean_that_its_density_says(name, family):
    torch.manual_seed(0)
    _, batch, guide = built(name, family)
    row = first_rows(batch, 1)
    num_nodes, tolerance = GRID.get(family, (101, 1e-4))
    with torch.no_grad():
        q, of_local = guide.posterior(row), guide.local(row).posterior(row)
        draws = q.sample((500,))
        torch.testing.assert_close(of_local.log_prob(draws.clone()), q.log_prob(draws.clone()))
        low, high = draws.amin((0, 1)) - 3, draws.amax((0, 1)) + 3
        steps = [
            torch.linspace(float(a), float(b), num_nodes).double()
            for a, b in zip(low, high, strict=True)
        ]
        grid = torch.cartesian_prod(*steps).reshape(-1, 1, len(steps))
        cell = torch.stack([s[1] - s[0] for s in steps]).prod()
        total = q.log_prob(grid).exp().sum(0) * cell
        torch.testing.assert_close(total, torch.ones_like(total), rtol=tolerance, atol=tolerance)

        num_draws = 1000 if family in ESTIMATED else 5000
        u = q.sample((num_draws,))
        wide = torch.distributions.Normal(u.mean(0), 2 * u.std(0))
        v = wide.sample((num_draws,))
        weights = (q.log_prob(v) - wide.log_prob(v).sum(-1)).exp().unsqueeze(-1)
    error = ((u.var(0) + (weights * v).var(0)) / num_draws).sqrt()
    assert bool(((u.mean(0) - (weights * v).mean(0)).abs() < 4 * error).all())


# Errors


def test_an_unknown_guide_is_an_error_that_lists_the_known():
    story, batch, _ = built("scalar", "mean_field")
    with pytest.raises(ValueError, match=r"mean_field, full_rank, .*iaf.*got 'flow'"):
        guides.build("flow", story, batch)


def test_an_unknown_option_is_an_error_that_lists_the_known():
    story, batch, _ = built("two_sites", "mean_field")
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
        built("scalar", family)


def test_a_latent_site_with_infinitely_many_values_is_named():
    story = CASES["several_observed"].story()
    batch = rows_of(CASES["several_observed"], story)
    del batch["count"]
    for family in CONTINUOUS:
        if suits("several_observed", family):
            with pytest.raises(ValueError, match=r"'count'.*infinitely many values.*in the guide"):
                guides.build(family, story, batch)


def test_a_story_with_nothing_latent_in_the_plate_is_an_error():
    story, batch, _ = built("two_sites", "mean_field")
    shown = {**batch, "a": torch.zeros(NUM_ROWS), "b": torch.zeros(NUM_ROWS, 2)}
    with pytest.raises(ValueError, match="latent site inside the plate 'data'"):
        guides.build("mean_field", story, shown)


def test_a_local_guide_serves_only_its_own_rows():
    _, batch, guide = built("two_sites", "mean_field")
    local = guide.local(batch)
    with pytest.raises(ValueError, match=r"the 12 rows .*got 3; call guide.local\(batch\)"):
        local.posterior({k: v[:3] for k, v in batch.items()})
