r"""The door: a pair and rows as functions of tensors, checked and traced once."""

import pyro.poutine as poutine
import pytest
import torch
from stories import CASES, rows_of

import ppvae
from ppvae import guides
from ppvae.problem import Problem
from ppvae.problem.generation import replicate
from ppvae.story import log_joint


@pytest.fixture
def pair():
    case = CASES["two_sites"]
    torch.manual_seed(0)
    story = case.story()
    rows = rows_of(case, story, 12)
    return story, guides.build("mean_field", story, rows, hidden=(8,)), rows


@pytest.fixture
def traces(monkeypatch):
    """Counts the traces of Pyro programs."""
    count = []
    get_trace = poutine.trace_messenger.TraceHandler.get_trace
    monkeypatch.setattr(
        poutine.trace_messenger.TraceHandler,
        "get_trace",
        lambda *args, **kwargs: (count.append(1), get_trace(*args, **kwargs))[1],
    )
    return count


def test_a_pair_is_traced_once_and_its_functions_never(pair, traces):
    problem = Problem.of(*pair)
    assert len(traces) == 1
    with torch.no_grad(), problem.eval_mode(0):
        drawn = problem.draw(3)
        problem.score_draws(drawn)
        problem.log_joint_by_site(drawn.values)
        problem.log_guide(drawn.values)
        replicate(problem, drawn.values)
        problem.draw_all(2)
        problem.unconstrained.value_and_grad(problem.unconstrained.flatten(drawn.values))
        for piece in problem.pieces(5):
            piece.log_weights(4)
        problem.with_rows(pair[2])
    assert len(traces) == 1


def test_weights_are_the_difference_of_both_densities(pair):
    story, _, rows = pair
    problem = Problem.of(*pair)
    with torch.no_grad(), problem.eval_mode(1):
        drawn = problem.draw(4)
        scores = problem.score_draws(drawn)
    torch.testing.assert_close(scores.log_joint, log_joint(story, rows, drawn.values))
    torch.testing.assert_close(scores.log_guide, problem.log_guide(drawn.values))
    torch.testing.assert_close(scores.log_weights, scores.log_joint - scores.log_guide)
    by_site = problem.log_joint_by_site(drawn.values)
    torch.testing.assert_close(sum(by_site.values()), scores.log_joint)


def test_pieces_give_the_numbers_of_the_whole(pair):
    problem = Problem.of(*pair)
    latents = problem.draw(2).values
    whole = problem.log_joint(latents)
    parts, start = [], 0
    for piece in problem.pieces(5):
        assert piece.first_row == start
        part = {k: v[:, start : start + piece.num_rows] for k, v in latents.items()}
        parts.append(piece.log_joint(part))
        start += piece.num_rows
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_the_unconstrained_density_has_its_gradient(pair):
    problem = Problem.of(*pair)
    free = problem.unconstrained
    u = torch.randn(3, 12, free.dim, dtype=torch.float64)
    problem = Problem.of(pair[0].double(), pair[1].double(), pair[2])
    free = problem.unconstrained
    value, gradient = free.value_and_grad(u)
    step = 1e-5 * torch.randn_like(u)
    change = free.log_joint(u + step) - free.log_joint(u - step)
    torch.testing.assert_close(change, 2 * (gradient * step).sum(-1), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(value, free.log_joint(u))
    latents, _ = free.unflatten(u)
    torch.testing.assert_close(free.flatten(latents), u)


def test_other_rows_are_checked_by_value(pair):
    problem = Problem.of(*pair)
    rows = dict(pair[2])
    other = {k: v[:4] for k, v in rows.items()}
    assert problem.with_rows(other).num_rows == 4
    with pytest.raises(ValueError, match=r"expected rows of shape \(3,\), got \(2,\)"):
        problem.with_rows({k: v[:, :2] for k, v in rows.items()})
    with pytest.raises(ValueError, match="expected rows with the keys"):
        problem.with_rows({"y": rows["x"]})


def test_what_needs_a_guide_says_so(pair):
    problem = Problem.of(pair[0], None, pair[2])
    with pytest.raises(ValueError, match="expected a guide to draw from"):
        problem.draw(2)
    with pytest.raises(ValueError, match=r"ppvae\.adopt"):
        Problem.of(pair[0], lambda batch: None, pair[2])


def test_rows_that_are_not_independent_are_refused_by_purpose():
    case = CASES["global"]
    story = case.story()
    rows = rows_of(case, story, 6)
    guide = guides.build("mean_field", story, rows, hidden=(8,))
    with pytest.raises(ValueError, match="inside the plate 'data' for k-hat"):
        Problem.of(story, guide, rows, independent_for="k-hat")
    problem = Problem.of(story, guide, rows)
    assert problem.score(3).log_global.shape == (3,)
    assert ppvae.elbo(story, guide, rows, num_particles=5).value.shape == (6,)
