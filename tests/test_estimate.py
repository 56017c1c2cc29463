r"""An estimate's arithmetic."""

import pytest
import torch

from ppvae.estimate import Estimate


def test_standard_error_of_a_mean_covers_rows_and_monte_carlo_noise() -> None:
    torch.manual_seed(0)
    truth = torch.randn(20_000, dtype=torch.float64) * 2
    noise = 3.0
    rows = Estimate(truth + noise * torch.randn_like(truth), torch.full_like(truth, noise))
    expected = ((4 + 9) / 20_000) ** 0.5
    assert float(rows.mean().std_error) == pytest.approx(expected, rel=0.03)


def test_one_row_keeps_its_monte_carlo_error() -> None:
    one = Estimate(torch.tensor([1.0]), torch.tensor([0.3])).mean()
    assert float(one.std_error) == pytest.approx(0.3)


def test_difference_of_rows_is_paired() -> None:
    torch.manual_seed(1)
    common = 100 * torch.randn(500, dtype=torch.float64)
    error = torch.full_like(common, 0.1)
    first = Estimate(common + 0.1 * torch.randn_like(common), error)
    second = Estimate(common + 1 + 0.1 * torch.randn_like(common), error)
    difference = (second - first).mean()
    assert abs(float(difference.value) - 1) < 4 * float(difference.std_error)
    assert float(difference.std_error) < 0.02


def test_draws_give_mean_and_standard_error() -> None:
    draws = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    found = Estimate.of_draws(draws)
    assert found.value.tolist() == [2.0, 2.0]
    assert found.std_error.tolist() == pytest.approx([1.0, 0.0])


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="standard error of shape"):
        Estimate(torch.zeros(3), torch.zeros(2))
