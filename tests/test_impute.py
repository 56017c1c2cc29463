r"""Walks through latent sites, and holes filled, against the closed forms of factor analysis."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from labelled import Labelled, LabelledGuide
from pyro.nn import PyroModule

from models.factor_analysis import FactorAnalysis
from ppvae.predict import impute, traverse
from ppvae.story import simulate

NUM_ROWS = 20


@pytest.fixture
def pair():
    torch.manual_seed(0)
    story = FactorAnalysis(data_dim=4, latent_dim=2).double()
    return story, KnownEntriesGuide(story), simulate(story, NUM_ROWS, seed=1)["x"]


# --- traverse ---------------------------------------------------------------


def test_a_walk_gives_the_decoded_means_at_its_stops(pair):
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
        ({}, "expected latent sites with one value a stop"),
        ({"y": torch.zeros(3), "z": torch.zeros(2)}, "got {'y': 3, 'z': 2}"),
        ({"q": torch.zeros(3)}, r"expected sites among \['x', 'y', 'z'\], got \['q'\]"),
    ],
)
def test_a_walk_over_no_site_or_unequal_stops_is_an_error(latents, message):
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
    holed = x.clone()
    holed[:, 2:] = torch.nan
    drawn = impute(story, guide, holed, num_draws=4000, seed=3)["x"]
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


def test_rows_without_holes_have_nothing_to_impute(pair):
    with pytest.raises(ValueError, match="got rows that miss none"):
        impute(*pair)
