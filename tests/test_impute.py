r"""Values at chosen latent sites, and missing values, against the closed forms of factor
analysis."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from labelled import Labelled, LabelledGuide
from pyro.nn import PyroModule

from models.factor_analysis import FactorAnalysis
from ppvae.guides import build
from ppvae.predict import impute, impute_point, traverse
from ppvae.story import simulate

NUM_ROWS, NUM_DRAWS = 20, 4000


@pytest.fixture
def pair():
    torch.manual_seed(0)
    story = FactorAnalysis(data_dim=4, latent_dim=2).double()
    return story, KnownEntriesGuide(story), simulate(story, NUM_ROWS, seed=1)["x"]


# --- traverse ---------------------------------------------------------------


def test_a_traversal_gives_the_decoded_means_at_its_points(pair):
    story, _, _ = pair
    z = torch.randn(7, 2).double()
    found = traverse(story, {"z": z})
    torch.testing.assert_close(found["z"], z)
    torch.testing.assert_close(found["x"], (z @ story.loadings.T + story.offset).detach())


def test_sites_between_the_chosen_one_and_the_data_are_drawn_from_it():
    found = traverse(Labelled(), {"y": torch.arange(3).repeat(20)}, seed=1)
    assert found["z"].std() > 0.5
    torch.testing.assert_close(found["x"], 10.0 * found["y"] + found["z"])


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ({}, "expected latent sites with one value a point"),
        ({"y": torch.zeros(3), "z": torch.zeros(2)}, "got {'y': 3, 'z': 2}"),
        ({"q": torch.zeros(3)}, r"expected sites among \['x', 'y', 'z'\], got \['q'\]"),
    ],
)
def test_a_traversal_of_no_site_or_of_unequal_length_is_an_error(latents, message):
    with pytest.raises(ValueError, match=message):
        traverse(Labelled(), latents)


# --- impute -----------------------------------------------------------------


class KnownEntriesGuide(PyroModule):
    """The exact posterior of factor analysis given the first two entries of a row."""

    def __init__(self, story):
        super().__init__(name="guide")
        loadings, noise = story.loadings[:2].detach(), story.noise_scale[:2].detach()
        self.scaled = loadings.T / noise**2  # (D, 2)
        self.precision = torch.eye(2).double() + self.scaled @ loadings
        self.offset = story.offset[:2].detach()

    def forward(self, batch):
        loc = (batch["x"][:, :2] - self.offset) @ self.scaled.T @ torch.linalg.inv(self.precision)
        with pyro.plate("data", len(loc)):
            pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=self.precision))


def test_imputations_are_draws_from_the_conditional_of_what_is_missing(pair):
    story, guide, x = pair
    missing = x.clone()
    missing[:, 2:] = torch.nan
    drawn = impute(story, guide, missing, num_draws=4000, seed=3)["x"]
    assert torch.equal(drawn[:, :, :2], x[:, :2].expand(4000, -1, -1))
    whole = (story.loadings @ story.loadings.T + story.noise_scale.square().diag()).detach()
    gain = whole[2:, :2] @ torch.linalg.inv(whole[:2, :2])
    mean = story.offset[2:].detach() + (x[:, :2] - story.offset[:2].detach()) @ gain.T
    cov = whole[2:, 2:] - gain @ whole[:2, 2:]
    error = (drawn[..., 2:].mean(0) - mean) / (cov.diag() / 4000).sqrt()
    assert bool((error.abs() < 4.5).all())  # 40 means
    seen = torch.stack([torch.cov(drawn[:, row, 2:].T) for row in range(NUM_ROWS)]).mean(0)
    spread = (cov.diag().prod() + cov.square()) / (4000 * NUM_ROWS)  # variance of a covariance
    spread[0, 0], spread[1, 1] = 2 * cov.diag().square() / (4000 * NUM_ROWS)
    assert bool(((seen - cov).abs() < 4 * spread.sqrt()).all())


def test_missing_labels_are_imputed_from_their_exact_conditional():
    y = torch.tensor([torch.nan, torch.nan, 2.0])
    x = torch.tensor([0.0, 20.0, 5.0])
    drawn = impute(Labelled(), LabelledGuide(), {"x": x, "y": y}, num_draws=50)["y"]
    assert drawn.shape == (50, 3)
    assert torch.equal(drawn.mean(0), torch.tensor([0.0, 2.0, 2.0]))  # ten standard errors apart


def test_rows_that_miss_nothing_have_nothing_to_impute(pair):
    with pytest.raises(ValueError, match="got rows that miss none"):
        impute(*pair)


# --- the best guess and its interval -----------------------------------------


@pytest.fixture
def missing(pair):
    story, guide, x = pair
    x[:, 2:] = torch.nan
    x[0] = simulate(story, 1, seed=2)["x"][0]  # a row that misses nothing
    return story, guide, x


def test_missing_values_are_replaced_by_conditional_means_between_conditional_quantiles(missing):
    story, _, x = missing
    found = impute_point(*missing, num_draws=NUM_DRAWS, seed=3)
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


def test_observed_entries_stay_bit_for_bit(missing):
    story, x = missing[0].float(), missing[2]  # half the precision of the rows
    found = impute_point(story, build("mean_field", story, x), x, num_draws=7)
    assert found["x"].dtype == x.dtype
    for value in found.values():
        assert torch.equal(value[~x.isnan()], x[~x.isnan()])
        assert bool(value.isfinite().all())


def test_what_replaces_them_is_the_mean_and_the_quantiles_of_the_draws(missing):
    draws = impute(*missing, num_draws=50, seed=5)["x"]
    found = impute_point(*missing, num_draws=50, level=0.5, seed=5)
    torch.testing.assert_close(found["x"], draws.mean(0))
    torch.testing.assert_close(found["x_lower"], draws.quantile(0.25, dim=0))
    torch.testing.assert_close(found["x_upper"], draws.quantile(0.75, dim=0))


def test_a_single_draw_is_its_own_interval(missing):
    found = impute_point(*missing, num_draws=1)
    assert torch.equal(found["x_lower"], found["x"]) and torch.equal(found["x_upper"], found["x"])


def test_a_category_is_replaced_by_the_most_frequent_value_and_its_share():
    y = torch.tensor([torch.nan, torch.nan, 2.0])
    x = torch.tensor([0.0, 5.0, 5.0])  # the second row lies halfway between two classes
    rows = {"x": x, "y": y}
    found = impute_point(Labelled(), LabelledGuide(), rows, num_draws=1000)
    assert set(found) == {"x", "y", "y_share"} and torch.equal(found["x"], x)
    assert found["y"][0] == 0 and found["y"][1] in (0, 1) and found["y"][2] == 2
    assert found["y_share"][0] == 1 and found["y_share"][2] == 1
    assert 0.5 <= found["y_share"][1] < 0.5 + 4 * (0.25 / 1000) ** 0.5


def test_a_level_outside_0_and_1_is_refused(missing):
    with pytest.raises(ValueError, match=r"level in \(0, 1\), got 1"):
        impute_point(*missing, level=1)
    with pytest.raises(ValueError, match="got rows that miss none"):
        impute_point(missing[0], missing[1], missing[2].nan_to_num())
