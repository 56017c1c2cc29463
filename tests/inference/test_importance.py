r"""Importance sampling in pieces: the same numbers as at once, with errors that repeats confirm;
resuming changes none.
"""

import exact
import pytest
import torch

import ppvae
from ppvae.inference import importance_evidence, importance_sampling
from ppvae.inference.importance_sampling import RunningWeights
from ppvae.problem import Problem

REPEATS = 1000


@pytest.fixture(scope="module")
def pair():
    story = exact.linear_gaussian(4, 2)
    return story, exact.ScaledPosterior(story, 1.5, shift=0.2), exact.rows_of(story, 6)


@pytest.mark.parametrize("sizes", [[1000], [1, 999], [350, 350, 300], [100] * 10])
@pytest.mark.parametrize("error", ["delta", "jackknife"])
def test_weights_in_pieces_give_what_they_give_at_once(sizes, error):
    torch.manual_seed(0)
    log_w = 3 * torch.randn(1000, 4).double() - 500  # far below what exp can hold
    running = RunningWeights(4, 100 if error == "jackknife" else 1)
    for part in log_w.split(sizes):
        running.add(part)
    found = running.estimate(error)
    torch.testing.assert_close(found.value, log_w.logsumexp(0) - torch.tensor(1000.0).log())
    share = log_w.softmax(0)
    delta = ((1000 * share.square().sum(0) - 1) / 999).sqrt()
    tolerance = 1e-9 if error == "delta" else 0.5  # two estimates of one error
    torch.testing.assert_close(found.std_error, delta, rtol=tolerance, atol=0)


@pytest.mark.parametrize("error", ["delta", "jackknife"])
def test_errors_are_those_of_repeats(pair, error):
    story, guide, rows = pair
    many = {"x": rows["x"][:1].expand(REPEATS, -1)}
    found = importance_sampling(Problem.of(story, guide, many), 300, error=error, seed=0)
    spread = float(found.value.std())
    claimed = float(found.std_error.square().mean().sqrt())
    assert abs(claimed / spread - 1) < 4 * (0.5 / REPEATS) ** 0.5 + 0.02  # 0.02: of second order


def test_streaming_gives_the_weights_estimate_whatever_the_chunks(pair, monkeypatch):
    story, guide, rows = pair
    log_w = ppvae.log_weights(story, guide, rows, 500, seed=3)
    expected = importance_evidence(log_w)
    problem = Problem.of(story, guide, rows)
    found = importance_sampling(problem, 500, seed=3)
    torch.testing.assert_close(found.value, expected.value)
    torch.testing.assert_close(found.std_error, expected.std_error)
    monkeypatch.setattr(
        "ppvae.data.chunks.CHUNK_NUMBERS", 256 * 60
    )  # ten particles of six rows at a time
    pieces = importance_sampling(problem, 2000, seed=3)
    error = pieces.value - story.log_evidence(rows)
    assert bool((error.abs() < 4 * pieces.std_error).all())


def test_iwelbo_in_pieces_is_unbiased_for_the_same_bound(pair, monkeypatch):
    story, guide, rows = pair
    whole = ppvae.iwelbo(story, guide, rows, num_particles=40, num_repeats=100, seed=0)
    monkeypatch.setattr("ppvae.data.chunks.CHUNK_NUMBERS", 256 * 6 * 16)  # pieces of 16 particles
    pieces = ppvae.iwelbo(story, guide, rows, num_particles=40, num_repeats=100, seed=1)
    difference = whole - pieces
    assert bool((difference.value.abs() < 4 * difference.std_error).all())


def test_one_particle_has_no_error_to_tell(pair):
    story, guide, rows = pair
    found = ppvae.log_evidence(story, rows, method="iwae", guide=guide, num_particles=1)
    assert bool(found.value.isfinite().all()) and bool(found.std_error.isnan().all())


def test_the_jackknife_deals_particles_alike_however_they_come():
    log_w = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).double()
    found = []
    for size in (1, 7, 10, 131, 200):
        running = RunningWeights(3, 100)
        for piece in log_w.split(size):
            running.add(piece)
        found.append(running.estimate("jackknife").std_error)
    for one in found:
        torch.testing.assert_close(one, found[-1])
