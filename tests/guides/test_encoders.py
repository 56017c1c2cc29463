r"""What a guide sees: encoders by shape, missing entries, other data than it was built for."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from stories import CASES, rows_of
from torch import nn

from ppvae import guides
from ppvae.nets import MLP, ConvEncoder, SequenceEncoder
from ppvae.problem import Problem


class Shaped(PyroModule):
    """Rows of any shape around one level."""

    def __init__(self, *shape):
        super().__init__()
        self.register_buffer("zero", torch.zeros(shape))

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero.flatten()[:2] * 0, 1.0).to_event(1))
            level = z.sum(-1).reshape(*z.shape[:-1], *(1,) * self.zero.dim())
            pyro.sample("x", dist.Normal(self.zero + level, 1.0).to_event(self.zero.dim()))


def rows(*shape):
    return torch.randn(20, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("shape", "encoder"),
    [((5,), MLP), ((7, 3), SequenceEncoder), ((1, 8, 8), ConvEncoder), ((3, 4, 6), ConvEncoder)],
)
@pytest.mark.parametrize("missing", [False, True])
def test_the_encoder_fits_the_shape_of_the_data(shape, encoder, missing):
    x = rows(*shape)
    if missing:
        x = x.masked_fill(rows(*shape) > 1.0, math.nan)
    guide = guides.build("mean_field", Shaped(*shape), x, hidden=(8,))
    assert isinstance(guide.features.encoder, encoder) and guide.features.num_features == 8
    assert bool(torch.isfinite(Problem.of(Shaped(*shape), guide, x).score(3).log_weights).all())


def test_rows_of_four_dimensions_need_an_encoder():
    x = rows(1, 2, 3, 4)
    with pytest.raises(ValueError, match="pass an encoder"):
        guides.build("mean_field", Shaped(1, 2, 3, 4), x)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(24, 6))
    guide = guides.build("mean_field", Shaped(1, 2, 3, 4), x, encoder=encoder)
    assert guide.features.num_features == 6
    Problem.of(Shaped(1, 2, 3, 4), guide, x).score(3)


def test_an_own_encoder_takes_the_storys_precision():
    story = Shaped(5).double()
    guide = guides.build("mean_field", story, rows(5).double(), encoder=nn.Linear(5, 4))
    assert guide.features.encoder.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, "at least one hidden width"),
        (
            {"encoder": nn.Sequential(nn.Linear(5, 4), nn.Unflatten(-1, (2, 2)))},
            r"one vector a row, \(2, features\); got \(2, 2, 2\)",
        ),
    ],
)
def test_an_encoder_without_features_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        guides.build("mean_field", Shaped(5), rows(5), **options)


def test_several_keys_and_covariates_reach_the_encoder():
    for name in ("several_observed", "covariate"):
        story = CASES[name].story()
        batch = rows_of(CASES[name], story)
        guide = guides.build("mean_field", story, batch, hidden=(8,))
        before = guide.posterior(batch).mean
        for key, value in batch.items():
            after = guide.posterior({**batch, key: value + 1.0}).mean
            assert bool((after != before).any(-1).all()), key


def test_what_is_missing_does_not_depend_on_its_filler_and_shows_in_the_mask():
    x = rows(5)
    x[:, 0] = math.nan
    guide = guides.build("mean_field", Shaped(5), x, hidden=(8,))
    inputs = guide.features.inputs({"x": x})
    assert inputs.shape == (20, 10) and bool(torch.isfinite(inputs).all())
    assert torch.equal(inputs[:, 5], torch.ones(20)) and torch.equal(inputs[:, 6], torch.zeros(20))


def test_values_missing_far_down_the_data_are_seen_when_the_guide_is_built():
    x = rows(5).repeat(150, 1)
    x[2500, 3] = math.nan
    guide = guides.build("mean_field", Shaped(5), x, hidden=(8,))
    assert bool(torch.isfinite(guide.posterior({"x": x[2495:2505]}).mean).all())


def test_missing_values_that_the_guide_was_not_built_for_are_an_error():
    x = rows(5)
    guide = guides.build("mean_field", Shaped(5), x, hidden=(8,))
    x[3, 1] = math.nan
    with pytest.raises(ValueError, match=r"'x': expected no missing values.*build the guide"):
        guide.posterior({"x": x})


def test_inputs_are_standardised_unless_they_lie_in_the_unit_interval():
    x = 100.0 + 50.0 * rows(5)
    inputs = guides.build("mean_field", Shaped(5), x).features.inputs({"x": x})
    torch.testing.assert_close(inputs.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std(0, correction=0), torch.ones(5))
    x = rows(5).sigmoid()
    assert torch.equal(guides.build("mean_field", Shaped(5), x).features.inputs({"x": x}), x)


def test_inputs_far_from_the_rows_that_were_seen_are_drawn_in_by_a_logarithm():
    x = rows(3)
    guide = guides.build("mean_field", Shaped(3), x)
    loc, scale = x.mean(0), x.std(0, correction=0)
    times = torch.tensor([-9.9, 9.9, 10.0, -10.0, 10 * math.e, -1000.0]).unsqueeze(-1)
    expected = torch.tensor([-9.9, 9.9, 10.0, -10.0, 20.0, -10 * (1 + math.log(100))])
    found = guide.features.inputs({"x": loc + times * scale})
    torch.testing.assert_close(found, expected.unsqueeze(-1).expand(-1, 3), rtol=1e-4, atol=1e-4)
    unit = guides.build("mean_field", Shaped(3), x.sigmoid())
    assert torch.equal(unit.features.inputs({"x": 1000 * x}), 1000 * x)  # not standardised
    unit.load_state_dict(guide.state_dict())
    assert torch.equal(
        unit.features.inputs({"x": 1000 * x}), guide.features.inputs({"x": 1000 * x})
    )


def test_other_keys_or_shapes_than_the_guides_are_errors():
    guide = guides.build("mean_field", Shaped(5), rows(5))
    with pytest.raises(ValueError, match=r"keys \['x'\].*got \['x', 'y'\]"):
        guide.posterior({"x": rows(5), "y": rows(5)})
    with pytest.raises(ValueError, match=r"'x': expected rows of shape \(5,\).*got \(4,\)"):
        guide.posterior({"x": rows(4)})


# A pair that does not fit


def drawing(*sites, **shapes):
    class Own(PyroModule):
        def forward(self, batch):
            with pyro.plate("data", len(batch["x"])):
                for site in sites:
                    shape = shapes.get(site, (2,))
                    loc = torch.zeros(shape)
                    pyro.sample(site, dist.Normal(loc, 1.0).to_event(loc.dim()))

    return Own()


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (drawing(), r"got none for \['z'\]; it samples \[\]"),
        (drawing("z", "w"), r"got also \['w'\].*is_auxiliary"),
        (drawing("z", z=(3,)), r"site 'z'.*draw \(2,\) in each row.*got \(3,\)"),
    ],
)
def test_a_guide_that_misses_a_site_or_draws_another_is_named(guide, message):
    with pytest.raises(ValueError, match=message):
        Problem.of(Shaped(5), guide, rows(5)).score()


def test_a_guide_that_draws_outside_the_plate_is_an_error():
    class Outside(PyroModule):
        def forward(self, batch):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"site 'z'.*inside the plate 'data'"):
        Problem.of(Shaped(5), Outside(), rows(5)).score()


def test_a_guide_that_knows_no_particles_is_run_for_each():
    class Convolving(PyroModule):
        """Its second site goes through a layer that takes (B, C, L) alone."""

        def __init__(self):
            super().__init__(name="own")
            self.conv = nn.ConvTranspose1d(2, 1, 2).double()

        def forward(self, batch):
            with pyro.plate("data", len(batch["x"])):
                z2 = pyro.sample("z2", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
                loc = self.conv(z2.unsqueeze(-1)).squeeze(-2)
                pyro.sample("z1", dist.Normal(loc, 1.0).to_event(1))

    story = CASES["hierarchical"].story()
    batch = rows_of(CASES["hierarchical"], story)
    guide = Convolving()
    scores = Problem.of(story, guide, batch).score(4)
    z1, z2 = scores.latents["z1"], scores.latents["z2"]
    loc = torch.stack([guide.conv(z.unsqueeze(-1)).squeeze(-2) for z in z2])
    expected = dist.Normal(0.0, 1.0).log_prob(z2).sum(-1) + dist.Normal(loc, 1.0).log_prob(z1).sum(
        -1
    )
    assert scores.log_guide.shape == (4, 12)
    torch.testing.assert_close(scores.log_guide, expected)
