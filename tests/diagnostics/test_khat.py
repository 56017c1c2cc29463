r"""k-hat against ArviZ, against theory, and on guides that are right, wide, narrow or lost."""

import math
from importlib import import_module

import arviz
import pytest
import torch

from ppvae.inference.khat import effective_sample_size, khat, khat_threshold, smooth_log_weights


def gaussian_log_weights(scale, dim, num_particles, num_rows=(), seed=0):
    """Log weights of the guide N(0, scale^2 I) for the posterior N(0, I), with shape (S, *)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_particles, *num_rows, dim)
    eps = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (eps.square() * (1 - scale**2) / 2).sum(-1) + dim * math.log(scale)


def heavy_log_weights(num_particles=400, num_rows=30, seed=0):
    """Rows from very thin to hopeless tails."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_particles, num_rows, generator=generator, dtype=torch.float64)
    return noise * torch.logspace(-3, 2.5, num_rows, dtype=torch.float64) - 100


# --- oracle -----------------------------------------------------------------


OLD = hasattr(arviz, "psislw")


@pytest.mark.skipif(not OLD, reason="this generation of ArviZ has no psislw")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("num_particles", [25, 26, 100, 401, 4000])
def test_khat_and_smoothing_agree_with_arviz_row_by_row(num_particles):
    wide = gaussian_log_weights(1.5, 2, num_particles, (5,))
    log_weights = torch.cat([heavy_log_weights(num_particles), wide], dim=1)
    log_weights[::3, ::4] = -math.inf
    log_weights[:, 1] = (log_weights[:, 1] + 100).mul(3e4).round()  # ties
    smoothed = smooth_log_weights(log_weights)
    normalized = smoothed - smoothed.logsumexp(0)
    for row, shape in enumerate(khat(log_weights)):
        expected, expected_shape = arviz.psislw(log_weights[:, row].numpy())
        torch.testing.assert_close(shape.item(), float(expected_shape), atol=1e-6, rtol=1e-6)
        # sorted, because which of two tied particles gets the larger quantile is arbitrary
        actual, expected = normalized[:, row].sort().values, torch.as_tensor(expected).sort().values
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.skipif(OLD, reason="this generation of ArviZ has psislw")
@pytest.mark.parametrize("num_particles", [100, 400, 3600])
def test_khat_and_smoothing_agree_with_the_newer_arviz(num_particles):
    # which takes log likelihoods, rounds the length of the tail down, and wants tails that do not
    # underflow
    heavy = heavy_log_weights(num_particles)[:, :18]
    log_weights = torch.cat([heavy, gaussian_log_weights(1.5, 2, num_particles, (5,))], dim=1)
    smoothed, shapes = smooth_log_weights(log_weights), khat(log_weights)
    psislw = import_module("arviz_stats.base").array_stats.psislw
    for row in range(log_weights.shape[1]):
        expected, shape = psislw(-log_weights[:, row].numpy(), r_eff=1.0, axis=-1)
        torch.testing.assert_close(shapes[row].item(), float(shape), atol=1e-6, rtol=1e-6)
        actual = (smoothed[:, row] - smoothed[:, row].logsumexp(0)).sort().values
        expected = torch.as_tensor(expected).sort().values
        torch.testing.assert_close(actual, expected - expected.logsumexp(0), atol=1e-5, rtol=1e-5)


# --- theory -----------------------------------------------------------------


# The theory is a limit in the number of particles, approached from above and slowly in many
# dimensions: the band of the narrow guide widens with the dimension, and of the wide ones only
# those that still visit the posterior's centre are held to it.


@pytest.mark.parametrize("dim", [1, 2, 5, 10])
@pytest.mark.parametrize("scale", [0.4, 0.7, 0.9])
def test_khat_of_a_narrow_gaussian_is_one_minus_scale_squared(scale, dim):
    shape = khat(gaussian_log_weights(scale, dim, 200_000, (4,))).mean()
    assert -0.1 < shape - (1 - scale**2) < 0.05 + 0.03 * dim


@pytest.mark.parametrize(("scale", "dim"), [(1.3, 1), (2.0, 1), (2.0, 2), (1.3, 5), (1.3, 10)])
def test_khat_of_a_wide_gaussian_is_minus_two_over_dimension(scale, dim):
    shape = khat(gaussian_log_weights(scale, dim, 200_000, (4,))).mean()
    assert abs(shape + 2 / dim) < 0.2


def test_khat_of_a_very_wide_guide_falls_towards_theory_as_particles_are_added():
    few, many = (khat(gaussian_log_weights(2.0, 10, s, (4,))).mean() for s in (2_000, 200_000))
    assert -2 / 10 < many < khat_threshold(200_000) < few


def test_khat_tells_right_and_wide_guides_from_a_narrow_one():
    threshold = khat_threshold(2000)
    shape = {s: khat(gaussian_log_weights(s, 4, 2000, (50,))) for s in (0.35, 0.98, 2.0)}
    assert (shape[0.35] > threshold).double().mean() > 0.9
    assert (shape[0.98] < threshold).all()
    assert (shape[2.0] < 0.3).all()


def test_khat_misses_a_lost_mode():
    # posterior: two far modes of equal mass; guide: exactly one of them
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 20, generator=generator, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    log_posterior = torch.logaddexp(normal.log_prob(z), normal.log_prob(z - 40)) - math.log(2)
    log_weights = log_posterior - normal.log_prob(z)
    assert (khat(log_weights) == -math.inf).all()
    torch.testing.assert_close(
        effective_sample_size(log_weights), torch.full((20,), 2000.0, dtype=torch.float64)
    )


# --- limits -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, -3.0, -90.0, -2500.0])
def test_khat_of_constant_weights_is_minus_infinity_whatever_the_rounding(level, dtype):
    generator = torch.Generator().manual_seed(0)
    rounding = 20 * torch.finfo(dtype).eps * max(1.0, abs(level))
    noise = rounding * torch.randn(500, 7, generator=generator, dtype=torch.float64)
    log_weights = (level + noise).to(dtype)
    assert (khat(log_weights) == -math.inf).all()
    assert torch.equal(khat(torch.full((500, 7), level, dtype=dtype)), khat(log_weights))
    torch.testing.assert_close(smooth_log_weights(log_weights), log_weights)


def test_khat_of_constant_weights_on_part_of_the_support_is_minus_infinity():
    log_weights = torch.full((100, 2), -math.inf)
    log_weights[::2] = -5.0
    assert (khat(log_weights) == -math.inf).all()
    torch.testing.assert_close(effective_sample_size(log_weights), torch.tensor([50.0, 50.0]))


def test_one_particle_that_holds_all_weight_gives_plus_infinity():
    log_weights = torch.full((100,), -math.inf)
    log_weights[3] = -5.0
    assert khat(log_weights) == math.inf
    assert effective_sample_size(log_weights) == 1
    assert torch.equal(smooth_log_weights(log_weights), log_weights)


def test_khat_is_never_nan_on_tied_or_extreme_weights():
    generator = torch.Generator().manual_seed(0)
    rows = []
    for levels in (2, 3, 5, 10, 50):
        ties = torch.randint(levels, (200, 20), generator=generator).double()
        rows += [ties, ties * 1e-6, ties * 200, ties.exp()]
    heavy = heavy_log_weights(200)
    heavy[:20] = heavy[20:40] * (1 + 1e-15)
    log_weights = torch.cat([*rows, heavy, heavy * 1e4], dim=1)
    assert not khat(log_weights).isnan().any()
    assert smooth_log_weights(log_weights).isfinite().all()


def test_rows_are_judged_alone_whatever_the_batch_or_the_chunk(monkeypatch):
    log_weights = heavy_log_weights().view(400, 5, 6)
    together, smoothed = khat(log_weights), smooth_log_weights(log_weights)
    ess = effective_sample_size(log_weights)
    assert together.shape == ess.shape == (5, 6)
    monkeypatch.setattr(import_module("ppvae.inference.khat"), "MAX_ELEMENTS", 9000)
    torch.testing.assert_close(khat(log_weights), together)
    for i in range(5):
        for j in range(6):
            row = log_weights[:, i, j]
            torch.testing.assert_close(khat(row), together[i, j])
            torch.testing.assert_close(smooth_log_weights(row), smoothed[:, i, j])
            torch.testing.assert_close(effective_sample_size(row), ess[i, j])


def test_no_rows_give_no_khat():
    assert khat(torch.zeros(100, 0)).shape == (0,)
    assert smooth_log_weights(torch.zeros(100, 0)).shape == (100, 0)


def test_khat_keeps_the_precision_of_its_input_and_does_not_depend_on_the_evidence():
    log_weights = gaussian_log_weights(0.6, 3, 1000, (6,))
    assert khat(log_weights.float()).dtype == torch.float32
    torch.testing.assert_close(
        khat(log_weights.float()).double(), khat(log_weights), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(khat(log_weights - 1000), khat(log_weights), atol=1e-9, rtol=0)


def test_khat_leaves_its_input_alone_and_carries_no_gradient():
    log_weights = heavy_log_weights().requires_grad_()
    before = log_weights.detach().clone()
    assert not khat(log_weights).requires_grad
    assert not smooth_log_weights(log_weights).requires_grad
    assert torch.equal(log_weights.detach(), before)


def test_smoothed_weights_never_exceed_the_raw_maximum_and_keep_the_body():
    log_weights = heavy_log_weights()
    smoothed = smooth_log_weights(log_weights)
    assert (smoothed <= log_weights.amax(0)).all()
    body = log_weights < log_weights.sort(0, descending=True).values[60]
    assert torch.equal(smoothed[body], log_weights[body])


def test_effective_sample_size_of_two_equal_weights_is_two():
    log_weights = torch.tensor([[0.0, 1e3], [0.0, 1e3], [-math.inf, -1e3]])
    torch.testing.assert_close(effective_sample_size(log_weights), torch.tensor([2.0, 2.0]))


def test_threshold_rises_with_particles_up_to_seven_tenths():
    assert khat_threshold(100) == 0.5
    assert khat_threshold(1000) == pytest.approx(2 / 3)
    assert khat_threshold(100_000) == 0.7


# --- errors -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        (khat, torch.zeros(24, 3), "at least 25 particles.*got 24"),
        (smooth_log_weights, torch.zeros(24, 3), "at least 25 particles.*got 24"),
        (khat, torch.tensor(1.0), "at least 25 particles.*got 0"),
        (khat_threshold, 10, "at least 25 particles.*got 10"),
        (khat, torch.zeros(100, 3).bfloat16(), "float32 or float64; got torch.bfloat16"),
    ],
)
def test_too_few_particles_and_half_precision_are_refused(function, argument, message):
    with pytest.raises(ValueError, match=message):
        function(argument)


@pytest.mark.parametrize("function", [khat, smooth_log_weights, effective_sample_size])
@pytest.mark.parametrize(
    ("value", "particles", "message"),
    [
        (math.nan, slice(0, 1), "2 of 3 rows with a log weight that is NaN"),
        (math.inf, slice(0, 1), r"2 of 3 rows with a log weight of \+inf"),
        (-math.inf, slice(None), "2 of 3 rows.*the guide has lost the support of the posterior"),
    ],
)
def test_weights_that_mean_a_fault_are_refused(function, value, particles, message):
    log_weights = torch.zeros(100, 3)
    log_weights[particles, 1:] = value
    with pytest.raises(ValueError, match=message):
        function(log_weights)
