r"""Walks along the latent numbers of a row: which, over what range, and what stays where it is."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from labelled import Labelled, LabelledGuide
from pyro.nn import PyroModule
from stories import CASES, rows_of

import ppvae
from ppvae.guides import build
from ppvae.predict import embed
from ppvae.predict.paths import stops

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


def test_the_numbers_that_tell_rows_apart_come_first(three):
    found = stops(*three, num_particles=1000)
    assert found.numbers.tolist() == [1, 2, 0] and dict(found.shapes) == {"z": (3,)}
    assert stops(*three, max_numbers=2).numbers.tolist() == [1, 2]


def test_one_number_moves_over_the_storys_own_range_and_the_others_stay_at_the_row(three):
    found = stops(*three, row=7, num_steps=NUM_STEPS, share=0.5)
    z = found.latents["z"].reshape(3, NUM_STEPS, 3)
    own = torch.distributions.Normal(torch.tensor([0.0, 5.0, 0.0]), 2.0)
    chances = torch.linspace(0.25, 0.75, NUM_STEPS)
    error = (chances * (1 - chances) / 1000).sqrt()  # of a chance, from 1000 simulated rows
    here = embed(*three)["z"].value[7]
    for walk, number in zip(z, found.numbers.tolist(), strict=True):
        reached = own.cdf(walk)[:, number]
        assert bool(((reached - chances).abs() < 4 * error).all())
        others = [k for k in range(3) if k != number]
        torch.testing.assert_close(walk[:, others], here[others].expand(NUM_STEPS, -1))


@pytest.mark.parametrize("name", [n for n in CASES if "global" not in n])
def test_every_stop_can_be_decoded(name):
    case = CASES[name]
    story = case.story()
    rows = rows_of(case, story)
    found = stops(story, build("mean_field", story, rows), rows, num_steps=3, num_particles=5)
    walked = ppvae.traverse(story, found.latents, **found.covariates)
    for seen in case.observed:
        assert walked[seen].shape == (3 * len(found.numbers), *rows[seen].shape[1:])
        assert bool(walked[seen].isfinite().all())


def test_labels_stay_at_the_rows_own_or_at_their_most_frequent_draw():
    x, y = torch.tensor([0.3, 10.2, 19.0]), torch.tensor([0.0, 2.0, 1.0])
    told = stops(Labelled(), LabelledGuide(), {"x": x, "y": y}, row=1)
    assert set(told.latents["y"].tolist()) == {2.0}
    untold = stops(Labelled(), LabelledGuide(), x, row=1)
    assert set(untold.latents["y"].tolist()) == {1}
    y[1] = torch.nan
    half = stops(Labelled(), LabelledGuide(), {"x": x, "y": y}, row=1)
    assert set(half.latents["y"].tolist()) == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row": 200}, "expected a row from 0 to 199 to start at, got 200"),
        ({"num_steps": 1}, "at least two steps"),
        ({"share": 1.0}, r"share in \(0, 1\)"),
        ({"given": ["z"]}, "expected `given` among"),
    ],
)
def test_walks_that_are_none_are_refused(three, options, message):
    with pytest.raises(ValueError, match=message):
        stops(*three, **options)


def test_a_row_that_misses_what_is_held_and_global_sites_are_refused(three):
    story, _, x = three
    case = CASES["global"]
    pooled = case.story()
    rows = rows_of(case, pooled)
    with pytest.raises(ValueError, match=r"global sites \['level'\]"):
        stops(pooled, build("mean_field", pooled, rows), rows)
    x[0] = torch.nan
    with pytest.raises(ValueError, match=r"expected a row that has \['x'\]"):
        stops(story, build("mean_field", story, x), x, given=["x"])
