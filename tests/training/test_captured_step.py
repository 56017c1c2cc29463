r"""Captured training steps: the loss and gradients of the plain ones, or given up with a reason."""

import pyro
import pytest
import torch
from stories import CASES, rows_of

import ppvae
from ppvae import guides, objectives
from ppvae.config import TrainConfig
from ppvae.story import local_params
from ppvae.training.captured_step import CapturedStep, compile_mode

# Objective, its options, story, family of the guide.
PAIRS = [
    ("trace_elbo", {}, "two_sites", "mean_field"),
    ("trace_elbo", {"num_particles": 3}, "deep_plates", "full_rank"),
    ("trace_elbo", {"beta": 0.5}, "simplex", "low_rank"),
    ("trace_elbo", {}, "global_plate", "mean_field"),
    ("trace_elbo", {}, "two_sites", "iaf"),
    ("trace_elbo", {}, "two_sites", "nsf"),
    ("trace_elbo", {}, "hierarchical", "structured"),
    ("iwae", {"num_particles": 4}, "two_sites", "mixture"),
    ("stl", {}, "positive", "mean_field"),
    ("dreg", {"num_particles": 3}, "two_sites", "mean_field"),
    ("vimco", {"num_particles": 3}, "two_sites", "mean_field"),
    ("renyi", {"num_particles": 3}, "matrix", "planar"),
    ("free_bits", {"floor": 0.1}, "two_sites", "mean_field"),
    ("score_function", {"baseline": "neural"}, "scalar", "mean_field"),
    ("score_function", {"baseline": "average"}, "two_sites", "full_rank"),
]


def made(objective, options, case, family, missing=False):
    story = CASES[case].story()
    rows = rows_of(CASES[case], story, 10)
    if missing:
        name = next(k for k, v in rows.items() if v.is_floating_point())
        rows[name] = rows[name].clone()
        rows[name][::3] = torch.nan
    torch.manual_seed(0)
    guide = guides.build(family, story, rows, hidden=(8,))
    return objectives.build(objective, story, guide, rows, **options), rows


def agree(loss_of, rows, has_warmup=False, steps=3):
    """Plain and captured steps from the same random numbers, with weights that move in between."""
    parameters = [p for p in loss_of.parameters() if p.requires_grad]
    step = CapturedStep(loss_of, parameters, "replay", has_warmup)
    loss_of.train()
    batches = [rows, {k: v[:4] for k, v in rows.items()}] * 2
    with local_params(loss_of.story, loss_of.guide), pyro.validation_enabled(False):
        for count, batch in enumerate(batches[: steps + 1]):
            kl_weight = (count + 1) / 4 if has_warmup else 1.0
            memory = [b.clone() for b in loss_of.buffers()]
            torch.manual_seed(count)
            expected = loss_of(batch, kl_weight)
            gradients = torch.autograd.grad(expected, parameters, allow_unused=True)
            for buffer, value in zip(loss_of.buffers(), memory, strict=True):
                buffer.copy_(value)
            torch.manual_seed(count)
            for parameter in parameters:
                parameter.grad = None
            found = step(batch, kl_weight)
            torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-9)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is None:
                    assert parameter.grad is None or not bool(parameter.grad.any())
                else:
                    torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-9)
            with torch.no_grad():
                for parameter in parameters:
                    parameter.mul_(0.98)
    return step


@pytest.mark.parametrize(("objective", "options", "case", "family"), PAIRS)
def test_captured_steps_have_the_loss_and_gradients_of_plain_ones(objective, options, case, family):
    assert agree(*made(objective, options, case, family)).note == ""


def test_missing_values_are_decided_outside_the_step():
    loss_of, rows = made("trace_elbo", {}, "two_sites", "mean_field", missing=True)
    assert agree(loss_of, rows).note == ""


def test_a_warm_up_is_an_input_of_the_step():
    loss_of, rows = made("iwae", {"num_particles": 2}, "two_sites", "mean_field")
    assert agree(loss_of, rows, has_warmup=True).note == ""


def test_what_looks_at_values_runs_as_it_is_and_says_why():
    loss_of, rows = made("mean_field_elbo", {}, "two_sites", "mean_field")
    assert "not captured" in agree(loss_of, rows).note


def test_a_captured_training_is_the_plain_one():
    story, guide, losses = CASES["two_sites"].story(), None, []
    rows = rows_of(CASES["two_sites"], story, 20)
    for mode in ("off", "replay"):
        torch.manual_seed(0)
        story = CASES["two_sites"].story()
        guide = guides.build("mean_field", story, rows, hidden=(8,))
        history = ppvae.fit(
            story, guide, rows, epochs=3, batch_size=8, compile=mode, progress=False
        )
        assert history.compile == mode
        losses.append(torch.tensor(history.column("loss")))
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-9)


def test_auto_replays_long_trainings_of_rows_in_memory():
    rows = ppvae.data.as_rows({"x": torch.zeros(4, 2)})
    assert compile_mode(TrainConfig(), rows, 10) == "off"
    assert compile_mode(TrainConfig(), rows, 10_000) == "replay"
    assert compile_mode(TrainConfig(accumulate=2), rows, 10_000) == "off"
    with pytest.raises(ValueError, match="compile=off or auto with accumulate above 1"):
        compile_mode(TrainConfig(accumulate=2, compile="replay"), rows, 10)
