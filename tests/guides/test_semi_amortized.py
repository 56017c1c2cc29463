r"""Semi-amortized guides: a fixed function of the row, nearer to q* than their start."""

from copy import deepcopy

import pyro
import pytest
import torch
from built import built
from exact import elbo as exact_elbo
from exact import linear_gaussian, rows_of
from families import CONTINUOUS, suits
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import ppvae
from ppvae import guides
from ppvae.guides import SemiAmortized
from ppvae.problem import Problem
from ppvae.story import local_params, observe, trace_sites

INNER = [family for family in CONTINUOUS if family != "semi_amortized"]


def made(name, **options):
    return built(name, "semi_amortized", moved=0.0, **options)


def test_many_steps_reach_the_best_member_of_the_family():
    story = linear_gaussian()
    batch = rows_of(story, 6)
    guide = guides.build("mean_field", story, batch)
    local = guide.local(batch)
    local.optimize(story)
    best = exact_elbo(story, local, batch)
    start = exact_elbo(story, guide, batch)
    semi = SemiAmortized.of(story, guide, num_steps=100, num_particles=16)
    reached = exact_elbo(story, semi, batch)
    assert bool((best - start > 1.0).all())
    torch.testing.assert_close(reached, best, rtol=0, atol=0.02)
    few = exact_elbo(story, SemiAmortized.of(story, guide, num_steps=20), batch)
    assert bool((few > start).all())


@pytest.mark.parametrize("family", INNER)
@pytest.mark.parametrize("backprop", [False, True], ids=["stopped", "through"])
def test_every_family_takes_steps_and_is_better_for_them(family, backprop):
    name = "hierarchical" if suits("hierarchical", family) else "positive"
    story, batch, guide = made(name, family=family, backprop=backprop, num_steps=10)
    start = ppvae.elbo(story, guide.inner, batch, num_particles=50).mean()
    after = ppvae.elbo(story, guide, batch, num_particles=50).mean()
    assert float(after.value) > float(start.value)
    Problem.of(story, guide, batch).score(4).log_weights.mean().backward()
    for key, parameter in guide.named_parameters():
        assert bool(torch.isfinite(parameter.grad).all()) and bool((parameter.grad != 0).any()), key


def slope(guide, batch):
    """How the locations after the steps move with the bias of the first location, `(B, d)`."""
    bias = guide.inner.to_parameters.bias
    loc = guide.parameters_of(batch)["loc"]
    rows = [torch.autograd.grad(part, bias, retain_graph=True)[0][0] for part in loc.flatten()]
    return torch.stack(rows).reshape(loc.shape)


def test_backprop_is_the_derivative_through_the_steps():
    _, batch, guide = made("two_sites", backprop=True, num_steps=3)
    found, bias, ends = slope(guide, batch), guide.inner.to_parameters.bias, []
    for change in (1e-5, -2e-5):
        with torch.no_grad():
            bias[0] += change
            ends.append(guide.parameters_of(batch)["loc"])
    torch.testing.assert_close(found, (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-6)
    assert float((found[:, 1:]).abs().max()) > 1e-3  # the steps see the other numbers


def test_stopped_steps_count_as_constants():
    _, batch, guide = made("two_sites", backprop=False, num_steps=3)
    expected = torch.tensor([1.0, 0.0, 0.0]).double().expand(len(batch["x"]), 3)
    torch.testing.assert_close(slope(guide, batch), expected)


def test_the_guide_is_a_function_of_the_row_and_leaves_the_generator_alone():
    _, batch, guide = made("dropout")
    state = torch.get_rng_state()
    first = guide.parameters_of(batch)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    again = guide.parameters_of(batch)
    assert all(torch.equal(first[k], again[k]) for k in first)
    story = guide.stories[0]
    assert story.training and all(part.training for part in story.modules())


def test_the_steps_are_taken_once_for_all_particles_and_anew_after_a_change(monkeypatch):
    story, batch, guide = made("two_sites")
    taken = []
    steps = SemiAmortized._after_steps
    monkeypatch.setattr(
        SemiAmortized, "_after_steps", lambda *args: taken.append(len(args[1]["x"])) or steps(*args)
    )
    ppvae.log_weights(story, guide, batch, 10_000, seed=0)  # more than fit in one run
    assert taken.count(len(batch["x"])) == 1
    guide.eval()
    with torch.no_grad():
        first = guide.parameters_of(batch)["loc"]
        assert guide.parameters_of(batch)["loc"] is first
        for change in (story.noise_unconstrained, guide.log_step, batch["x"]):
            change.add_(0.1)
            again = guide.parameters_of(batch)["loc"]
            assert not torch.equal(first, again)
            first = again
    optimiser = torch.optim.Adam(guide.parameters(), 0.1, fused=True)  # marks no weight as changed
    guide.parameters_of(batch)["loc"].sum().backward()
    optimiser.step()
    with torch.no_grad():
        assert not torch.equal(guide.parameters_of(batch)["loc"], first)


def test_steps_go_behind_a_guide_that_pyro_has_trained(empty_store):
    story, batch, guide = built("simplex", "full_rank", moved=0.0)
    svi = SVI(observe(story), guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(20):
        svi.step(batch)
    before = {k: v.clone() for k, v in guide.state_dict().items()}
    semi = SemiAmortized.of(story, guide)
    assert all(torch.equal(v, before[k]) for k, v in guide.state_dict().items())
    plain, fit_local = (
        ppvae.elbo(story, g, batch, num_particles=500).mean() for g in (guide, semi)
    )
    assert float(fit_local.value) > float(plain.value)
    svi = SVI(observe(story), semi, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(batch)
    changed = [k for k, v in guide.state_dict().items() if not torch.equal(v, before[k])]
    assert "to_parameters.bias" in changed  # shared, not copied


@pytest.mark.parametrize("name", ["inner_auto", "deep_plates", "global"])
def test_pyros_particles_do_not_meet_those_of_the_steps(name):
    story, batch, guide = made(name)
    elbo = Trace_ELBO(
        num_particles=3,
        vectorize_particles=True,
        max_plate_nesting=trace_sites(story, batch).max_plate_nesting,
    )
    with local_params(story, guide):
        assert bool(torch.isfinite(elbo.differentiable_loss(observe(story), guide, batch)))


def test_a_copy_of_story_and_guide_climbs_the_copied_story():
    story, batch, guide = made("hierarchical")
    other, copied = deepcopy((story, guide))
    assert copied.stories[0] is other
    with torch.no_grad():
        other.decoder.weight.zero_()
    before, after = guide.parameters_of(batch)["loc"], copied.parameters_of(batch)["loc"]
    assert not torch.equal(before, after)


def test_twenty_steps_close_half_of_a_weak_encoders_gap_on_digits():
    train, test = ppvae.data.load("digits"), ppvae.data.load("digits", split="test").head(50)
    torch.manual_seed(0)
    story = ppvae.stories.load("vae", dict(train.head(20).binarize_once(seed=0).tensors))
    weak = guides.build("mean_field", story, train, encoder=nn.Flatten())
    ppvae.fit(story, weak, train, epochs=10, progress=False)
    rows = dict(test.binarize_once(seed=0).tensors)
    local = weak.local(rows)
    local.optimize(story)
    fit_local = SemiAmortized.of(story, weak, num_steps=20)
    start, after, best = (
        ppvae.elbo(story, g, rows, num_particles=300, seed=1) for g in (weak, fit_local, local)
    )
    gap, closed = best - start, after - start
    assert float(gap.mean().value) > 0.2
    assert float(closed.mean().value) > 0.5 * float(gap.mean().value)


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "flow"}, "a family among mean_field, .*got 'flow'"),
        ({"family": "semi_amortized"}, "a family among mean_field"),
        ({"num_steps": 0}, "num_steps of at least 1, got 0"),
        ({"step_size": 0.0}, "step_size above 0"),
        ({"num_layers": 2}, r"'semi_amortized'.*num_particles.*got \['num_layers'\]"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        made("two_sites", **options)


def test_options_of_the_family_stand_beside_those_of_the_steps():
    guide = made("two_sites", family="iaf", num_layers=3, num_steps=2)[2]
    assert len(guide.transport.layers) == 3 and guide.num_steps == 2


def test_a_guide_without_an_encoder_or_with_steps_is_refused():
    story, batch, guide = made("two_sites")
    for wrong in (guide, guide.local(batch), nn.Linear(1, 1)):
        with pytest.raises(ValueError, match=f"without steps, got {type(wrong).__name__}"):
            SemiAmortized.of(story, wrong)
