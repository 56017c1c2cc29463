r"""Latent traversals of a row: which dimensions, over what range, and what stays where it is."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from labelled import Labelled, LabelledGuide
from pyro.nn import PyroModule
from stories import CASES, built

import ppvae
from ppvae.guides import build
from ppvae.predict import embed, latent_traversals

NUM_STEPS = 5


class Three(PyroModule):
    """Three numbers, of which the first is hardly seen and the second well."""

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.tensor([0.0, 5.0, 0.0]), 2.0).to_event(1))
            pyro.sample("x", dist.Normal(z * torch.tensor([0.01, 1.0, 0.3]), 1.0).to_event(1))


class ThreeGuide(PyroModule):
    """The exact posterior of `Three`."""

    def forward(self, batch):
        weight, prior = torch.tensor([0.01, 1.0, 0.3]), torch.tensor([0.0, 5.0, 0.0])
        precision = 0.25 + weight**2
        loc = (0.25 * prior + weight * batch["x"]) / precision
        with pyro.plate("data", len(loc)):
            pyro.sample("z", dist.Normal(loc, precision**-0.5).to_event(1))


@pytest.fixture
def three():
    return Three(), ThreeGuide(), ppvae.simulate(Three(), 200, seed=0)["x"]


def test_the_dimensions_that_tell_rows_apart_come_first(three):
    found = latent_traversals(*three, num_particles=1000)
    assert found.dims.tolist() == [1, 2, 0] and dict(found.shapes) == {"z": (3,)}
    assert latent_traversals(*three, max_dims=2).dims.tolist() == [1, 2]


def test_one_dimension_moves_over_the_storys_own_range_and_the_others_stay_at_the_row(three):
    found = latent_traversals(*three, row=7, num_steps=NUM_STEPS, level=0.5)
    z = found.latents["z"].reshape(3, NUM_STEPS, 3)
    own = torch.distributions.Normal(torch.tensor([0.0, 5.0, 0.0]), 2.0)
    chances = torch.linspace(0.25, 0.75, NUM_STEPS)
    error = (chances * (1 - chances) / 1000).sqrt()  # of a chance, from 1000 simulated rows
    here = embed(*three)["z"].value[7]
    for traversal, dim in zip(z, found.dims.tolist(), strict=True):
        reached = own.cdf(traversal)[:, dim]
        assert bool(((reached - chances).abs() < 4 * error).all())
        others = [k for k in range(3) if k != dim]
        torch.testing.assert_close(traversal[:, others], here[others].expand(NUM_STEPS, -1))


@pytest.mark.parametrize("kind", [n for n in CASES if "global" not in n])
def test_every_point_can_be_decoded(kind):
    story, guide, rows = built(kind)
    found = latent_traversals(story, guide, rows, num_steps=3, num_particles=5)
    decoded = ppvae.traverse(story, found.latents, **found.covariates)
    for name in CASES[kind].observed:
        assert decoded[name].shape == (3 * len(found.dims), *rows[name].shape[1:])
        assert bool(decoded[name].isfinite().all())


def test_labels_stay_at_the_rows_own_or_at_their_most_frequent_draw():
    x, y = torch.tensor([0.3, 10.2, 19.0]), torch.tensor([0.0, 2.0, 1.0])
    given = latent_traversals(Labelled(), LabelledGuide(), {"x": x, "y": y}, row=1)
    assert set(given.latents["y"].tolist()) == {2.0}
    drawn = latent_traversals(Labelled(), LabelledGuide(), x, row=1)
    assert set(drawn.latents["y"].tolist()) == {1}
    y[1] = torch.nan
    half = latent_traversals(Labelled(), LabelledGuide(), {"x": x, "y": y}, row=1)
    assert set(half.latents["y"].tolist()) == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row": 200}, "expected a row from 0 to 199 to start at, got 200"),
        ({"num_steps": 1}, "at least two steps"),
        ({"level": 1.0}, r"level in \(0, 1\)"),
        ({"given": ["z"]}, "expected `given` among"),
    ],
)
def test_faulty_requests_are_refused(three, options, message):
    with pytest.raises(ValueError, match=message):
        latent_traversals(*three, **options)


def test_a_row_that_misses_what_is_held_and_global_sites_are_refused(three):
    story, _, x = three
    with pytest.raises(ValueError, match=r"global sites \['level'\]"):
        latent_traversals(*built("global"))
    x[0] = torch.nan
    with pytest.raises(ValueError, match=r"expected a row that has \['x'\]"):
        latent_traversals(story, build("mean_field", story, x), x, given=["x"])
