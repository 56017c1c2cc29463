r"""Holes filled once: the conditional mean and quantiles of factor analysis, and labels."""

import pytest
import torch
from labelled import Labelled, LabelledGuide
from test_impute import KnownEntriesGuide

from models.factor_analysis import FactorAnalysis
from ppvae.guides import build
from ppvae.predict import fill, impute
from ppvae.story import simulate

NUM_ROWS, NUM_DRAWS = 20, 4000


@pytest.fixture
def holed():
    torch.manual_seed(0)
    story = FactorAnalysis(data_dim=4, latent_dim=2).double()
    x = simulate(story, NUM_ROWS, seed=1)["x"]
    x[:, 2:] = torch.nan
    x[0] = simulate(story, 1, seed=2)["x"][0]  # a row without holes
    return story, KnownEntriesGuide(story), x


def test_holes_are_filled_with_conditional_means_between_conditional_quantiles(holed):
    story, _, x = holed
    found = fill(*holed, num_draws=NUM_DRAWS, seed=3)
    assert set(found) == {"x", "x_lower", "x_upper"}
    whole = (story.loadings @ story.loadings.T + story.noise_scale.square().diag()).detach()
    gain = whole[2:, :2] @ torch.linalg.inv(whole[:2, :2])
    mean = story.offset[2:].detach() + (x[1:, :2] - story.offset[:2].detach()) @ gain.T
    scale = (whole[2:, 2:] - gain @ whole[:2, 2:]).diag().sqrt()
    normal = torch.distributions.Normal(mean, scale)
    for name, chance in (("x_lower", 0.05), ("x_upper", 0.95)):
        exact = normal.icdf(torch.tensor(chance).double())
        error = (chance * (1 - chance) / NUM_DRAWS) ** 0.5 / normal.log_prob(exact).exp()
        assert bool(((found[name][1:, 2:] - exact).abs() < 4.5 * error).all())  # 38 quantiles
    error = (found["x"][1:, 2:] - mean) / (scale / NUM_DRAWS**0.5)
    assert bool((error.abs() < 4.5).all())


def test_entries_that_are_there_stay_bit_for_bit(holed):
    story, x = holed[0].float(), holed[2]  # half the precision of the rows
    found = fill(story, build("mean_field", story, x), x, num_draws=7)
    assert found["x"].dtype == x.dtype
    for value in found.values():
        assert torch.equal(value[~x.isnan()], x[~x.isnan()])
        assert bool(value.isfinite().all())


def test_what_is_filled_in_is_the_mean_and_the_quantiles_of_the_draws(holed):
    draws = impute(*holed, num_draws=50, seed=5)["x"]
    found = fill(*holed, num_draws=50, share=0.5, seed=5)
    torch.testing.assert_close(found["x"], draws.mean(0))
    torch.testing.assert_close(found["x_lower"], draws.quantile(0.25, dim=0))
    torch.testing.assert_close(found["x_upper"], draws.quantile(0.75, dim=0))


def test_a_single_draw_is_its_own_interval(holed):
    found = fill(*holed, num_draws=1)
    assert torch.equal(found["x_lower"], found["x"]) and torch.equal(found["x_upper"], found["x"])


def test_a_category_is_filled_with_the_most_frequent_value_and_its_share():
    y = torch.tensor([torch.nan, torch.nan, 2.0])
    x = torch.tensor([0.0, 5.0, 5.0])  # the second row lies halfway between two classes
    rows = {"x": x, "y": y}
    found = fill(Labelled(), LabelledGuide(), rows, num_draws=1000)
    assert set(found) == {"x", "y", "y_share"} and torch.equal(found["x"], x)
    assert found["y"][0] == 0 and found["y"][1] in (0, 1) and found["y"][2] == 2
    assert found["y_share"][0] == 1 and found["y_share"][2] == 1
    assert 0.5 <= found["y_share"][1] < 0.5 + 4 * (0.25 / 1000) ** 0.5


def test_a_share_that_is_none_is_refused(holed):
    with pytest.raises(ValueError, match=r"share in \(0, 1\), got 1"):
        fill(*holed, share=1)
    with pytest.raises(ValueError, match="got rows that miss none"):
        fill(holed[0], holed[1], holed[2].nan_to_num())
