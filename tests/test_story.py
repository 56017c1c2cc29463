r"""The story contract: sites, conditioning, simulation, scores against closed forms."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from stories import CASES, Case, Global, InnerAuto, InnerExplicit, rows_of
from torch.distributions import Normal, constraints

from ppvae.story import (
    LogJoint,
    eval_mode,
    log_joint,
    observe,
    scale_rows,
    simulate,
    trace_sites,
)

NUM_ROWS, NUM_PARTICLES = 12, 4


def made(name: str):
    case = CASES[name]
    story = case.story()
    return story, rows_of(case, story, NUM_ROWS)


def prior_particles(story, batch, sites, num_particles=NUM_PARTICLES):
    case_covariates = {k: v for k, v in batch.items() if k == "dose"}
    draws = [simulate(story, NUM_ROWS, seed=s, **case_covariates) for s in range(num_particles)]
    return {k: torch.stack([d[k] for d in draws]) for k in sites.latent}


# Sites


def test_sites_tell_names_roles_supports_plates_and_shapes():
    sites = trace_sites(*made("inner_explicit"))
    assert list(sites) == ["z", "share", "x"]
    assert list(sites.latent) == ["z", "share"] and list(sites.observed) == ["x"]
    assert sites["share"].event_shape == (3,) and sites["share"].inner_plates == ("parts",)
    assert sites["share"].row_shape == (4, 3) and sites["x"].row_shape == (4,)
    assert sites["share"].support is constraints.simplex and all(s.is_local for s in sites.values())
    assert sites.row_dim == -2 and sites.max_plate_nesting == 2 and sites.particle_dim == -3


def test_global_sites_are_told_from_local_ones():
    sites = trace_sites(*made("global_plate"))
    assert list(sites.global_latent) == ["gain", "bias"] and list(sites.local_latent) == ["z"]
    assert sites["bias"].inner_plates == ("sensors",) and sites["bias"].row_shape == (3, 2)


def test_data_decide_what_is_observed():
    story, batch = made("several_observed")
    assert list(trace_sites(story, {"count": batch["count"]}).latent) == ["z", "x", "size"]


def test_deterministic_sites_and_buffers_are_no_latent_sites():
    assert "loc" not in trace_sites(*made("several_observed"))


def test_bounds_of_a_support_are_those_of_one_row():
    support = trace_sites(*made("bounded"))["angle"].support
    assert support.base_constraint.lower_bound.shape in ((), (2,))
    assert support.check(torch.zeros(7, 2, dtype=torch.float64)).shape == (7,)


def test_discrete_sites_say_so():
    assert trace_sites(*made("several_observed"))["count"].is_discrete


# Conditioning


def test_a_bare_tensor_is_the_site_x():
    story, batch = made("scalar")
    trace = pyro.poutine.trace(observe(story)).get_trace(batch["x"])
    assert torch.equal(trace.nodes["x"]["value"], batch["x"])
    assert trace.nodes["x"]["is_observed"] and not trace.nodes["z"]["is_observed"]


def test_observe_with_a_batch_needs_no_argument():
    story, batch = made("scalar")
    assert pyro.poutine.trace(observe(story, batch)).get_trace().nodes["x"]["is_observed"]
    with pytest.raises(ValueError, match="expected a batch"):
        observe(story)()


def test_an_observed_story_serves_batches_of_several_sizes():
    story, batch = made("inner_auto")
    model = observe(story)
    for n in (1, 2, NUM_ROWS):
        trace = pyro.poutine.trace(model).get_trace({k: v[:n] for k, v in batch.items()})
        assert trace.nodes["data"]["value"].shape == (n,)


def test_an_unknown_key_is_an_error_that_lists_the_sites():
    story, batch = made("two_sites")
    with pytest.raises(ValueError, match=r"got \['y'\].*\['a', 'b', 'x'\]"):
        trace_sites(story, {**batch, "y": batch["x"]})


def test_a_bare_tensor_needs_a_site_x():
    story, batch = made("names")
    with pytest.raises(ValueError, match=r"got \['x'\].*encoder"):
        trace_sites(story, batch["encoder"])


def test_covariates_go_to_the_story_and_are_asked_for():
    story, batch = made("covariate")
    assert set(trace_sites(story, batch)) == {"effect", "x"}
    with pytest.raises(ValueError, match=r"covariates \['dose'\]"):
        trace_sites(story, {"x": batch["x"]})


def test_keyword_only_covariates_are_asked_for():
    class Keyword(PyroModule):
        def forward(self, n, *, dose):
            with pyro.plate("data", n):
                pyro.sample("x", dist.Normal(dose, 1.0))

    with pytest.raises(ValueError, match=r"covariates \['dose'\]"):
        trace_sites(Keyword(), torch.zeros(3))


def test_keys_of_unequal_length_are_an_error():
    story, batch = made("several_observed")
    with pytest.raises(ValueError, match="as many in every key"):
        trace_sites(story, {**batch, "count": batch["count"][:3]})


# Simulation


@pytest.mark.parametrize("name", CASES)
def test_simulate_gives_rows_first_inside_the_supports(name):
    case = CASES[name]
    story, batch = made(name)
    sites = trace_sites(story, batch)
    given = {k: batch[k][:5] for k in case.covariates}
    rows = simulate(story, 5, seed=1, **given)
    assert set(rows) == set(sites)
    for key, site in sites.items():
        assert rows[key].shape == ((5,) if site.is_local else ()) + tuple(site.row_shape)
        assert bool(site.support.check(rows[key]).all())
        assert rows[key].dtype == torch.float64


def test_simulate_is_reproducible_and_leaves_the_global_generator_alone():
    story, _ = made("hierarchical")
    state = torch.get_rng_state()
    first, again, other = (simulate(story, 3, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["z2"], other["z2"])


def test_simulate_needs_a_row():
    with pytest.raises(ValueError, match="at least one row"):
        simulate(CASES["scalar"].story(), 0)


# Scores


def test_log_joint_equals_the_closed_form_with_an_inner_plate():
    for case, dims in ((Case(InnerAuto), 1), (Case(InnerExplicit), 2)):
        story = case.story()
        batch = rows_of(case, story, NUM_ROWS)
        sites = trace_sites(story, batch)
        latents = prior_particles(story, batch, sites)
        z, x, noise = latents["z"], batch["x"], story.noise
        if dims == 1:
            w = latents["w"]  # (S, B, parts)
            expected = Normal(0.0, 1.0).log_prob(z)
            expected = expected + dist.LogNormal(z.unsqueeze(-1), 1.0).log_prob(w).sum(-1)
            expected = expected + Normal(w, noise).log_prob(x).sum(-1)
        else:
            share = latents["share"]  # (S, B, parts, 3)
            expected = Normal(0.0, 1.0).log_prob(z).sum(-1)
            expected = expected + dist.Dirichlet(story.zero + 2.0).log_prob(share).sum(-1)
            loc = (z.unsqueeze(-2) * share).sum(-1)
            expected = expected + Normal(loc, noise).log_prob(x).sum(-1)
        torch.testing.assert_close(log_joint(story, batch, latents), expected)


def test_log_joint_keeps_global_sites_apart():
    story, batch = made("global")
    latents = prior_particles(story, batch, trace_sites(story, batch))
    level = latents["level"].unsqueeze(-1)
    local, shared = LogJoint(story, batch).split(latents)
    expected = Normal(level, 1.0).log_prob(latents["z"])
    expected = expected + Normal(latents["z"], story.noise).log_prob(batch["x"])
    torch.testing.assert_close(local, expected)
    torch.testing.assert_close(shared, Normal(0.0, 2.0).log_prob(latents["level"]))
    torch.testing.assert_close(log_joint(story, batch, latents), local)


@pytest.mark.parametrize("name", CASES)
def test_particles_at_once_equal_particles_one_by_one(name):
    story, batch = made(name)
    with eval_mode(story):
        sites = trace_sites(story, batch)
        latents = prior_particles(story, batch, sites)
        local, shared = LogJoint(story, batch, sites).split(latents)
        assert local.shape == (NUM_PARTICLES, NUM_ROWS) and shared.shape == (NUM_PARTICLES,)
        for s in range(NUM_PARTICLES):
            one = LogJoint(story, batch, sites).split({k: v[s : s + 1] for k, v in latents.items()})
            torch.testing.assert_close(one[0][0], local[s])
            torch.testing.assert_close(one[1][0], shared[s])


@pytest.mark.parametrize("name", CASES)
def test_log_joint_equals_pyros_own_trace(name):
    story, batch = made(name)
    with eval_mode(story):
        sites = trace_sites(story, batch)
        latents = prior_particles(story, batch, sites, 1)
        local, shared = LogJoint(story, batch, sites).split(latents)
        inside = {k: s.layout.to_program(latents[k][0]) for k, s in sites.latent.items()}
        conditioned = pyro.poutine.condition(observe(story), data=inside)
        trace = pyro.poutine.trace(conditioned).get_trace(batch)
    torch.testing.assert_close(local.sum() + shared.sum(), trace.log_prob_sum())


def test_a_latent_site_without_a_value_is_an_error():
    story, batch = made("two_sites")
    with pytest.raises(ValueError, match=r"none for \['b'\]"):
        log_joint(story, batch, {"a": torch.zeros(1, NUM_ROWS)})


def test_rows_count_n_over_b_times_beside_global_sites():
    case = Case(Global)
    story = case.story()
    batch = rows_of(case, story, NUM_ROWS)
    few = {"x": batch["x"][:3]}
    level, z = torch.tensor(0.3).double(), torch.tensor([0.1, -0.5, 1.0]).double()
    model = pyro.poutine.condition(scale_rows(observe(story), 12), data={"level": level, "z": z})
    trace = pyro.poutine.trace(model).get_trace(few)
    rows = Normal(level, 1.0).log_prob(z) + Normal(z, story.noise).log_prob(few["x"])
    expected = Normal(0.0, 2.0).log_prob(level) + 12 / 3 * rows.sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_evaluating_restores_each_part_of_a_story():
    story = CASES["dropout"].story()
    story.decoder.eval()
    with eval_mode(story):
        assert not story.training
    assert story.training and not story.decoder.training
    trace_sites(story, rows_of(CASES["dropout"], story))
    assert story.training and not story.decoder.training
