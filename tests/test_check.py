r"""The story doctor: every fault has one clear message, and no sound story has one."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from stories import CASES, rows_of
from torch import nn

from ppvae.nets import MLP
from ppvae.story import check_story

ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Decoding(PyroModule):
    """z -> x through a decoder that a test chooses."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1))


def story_of(program):
    """A story from a plain function of n."""

    class Told(PyroModule):
        def forward(self, n):
            return program(n)

    return Told()


@pytest.mark.parametrize("name", CASES)
def test_sound_stories_pass(name):
    case = CASES[name]
    story = case.story()
    sites = check_story(story, rows_of(case, story))
    assert set(sites.observed) == set(case.observed)


@pytest.mark.parametrize("name", ["two_sites", "inner_explicit", "global", "hierarchical", "names"])
def test_sound_stories_pass_on_rows_of_their_own(name):
    case = CASES[name]
    assert set(check_story(case.story()).observed) == set(case.observed)


def test_a_single_row_is_enough():
    check_story(Decoding(MLP(2, 4, (8,))), ROWS[:1])


def test_a_function_is_no_story():
    with pytest.raises(ValueError, match=r"expected a story.*got function.*ppvae.adopt"):
        check_story(lambda n: None, ROWS)


def test_forward_must_take_the_number_of_rows():
    class NoNumber(PyroModule):
        def forward(self):
            pass

    with pytest.raises(
        ValueError, match=r"NoNumber.forward\(n, \*\*covariates\).*got no arguments"
    ):
        check_story(NoNumber(), ROWS)


def test_a_model_that_takes_its_data_is_told_of_adopt():
    class TakesData(PyroModule):
        def forward(self, x):
            with pyro.plate("data", x.shape[0]):
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"expected TakesData.forward\(n\).*ppvae.adopt"):
        check_story(TakesData(), ROWS)


def test_a_missing_data_plate_is_named():
    def program(n):
        pyro.sample("x", dist.Normal(torch.zeros(n, 4), 1.0).to_event(2))

    with pytest.raises(ValueError, match=r'a plate named "data"|expected rows of shape'):
        check_story(story_of(program), ROWS)

    def other_name(n):
        with pyro.plate("rows", n):
            pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r'pyro.plate\("data", n\)'):
        check_story(story_of(other_name))


def test_a_loop_over_the_rows_is_named():
    def program(n):
        for i in pyro.plate("data", n):
            pyro.sample(f"x_{i}", dist.Normal(torch.zeros(4), 1.0).to_event(1))

    for batch in (ROWS, None):
        with pytest.raises(ValueError, match=r'plate "data" to hold all rows.*got a loop'):
            check_story(story_of(program), batch)


@pytest.mark.parametrize("in_data", [True, False])
def test_an_observation_inside_the_story_is_named(in_data):
    def program(n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=torch.zeros(n, 4))
            pyro.sample("y", dist.Normal(z, 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"site 'x'.*obs=... inside.*take obs= away"):
        check_story(story_of(program), {"x" if in_data else "y": ROWS})


@pytest.mark.parametrize("latent_dim", [2, 3, 4, 5, 6])
def test_a_missing_to_event_is_named_whatever_the_length(latent_dim):
    decoder = MLP(latent_dim, 4, (8,))

    def program(n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(latent_dim), 1.0))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"\.to_event\(1\)"):
        check_story(story_of(program), ROWS)


@pytest.mark.parametrize("data_dim", [2, 3, 5, 6])
def test_a_missing_to_event_at_the_data_is_named(data_dim):
    decoder = MLP(2, data_dim, (8,))

    def program(n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0))

    with pytest.raises(ValueError, match=r"to_event\(1\)|expected rows of shape"):
        check_story(story_of(program), torch.zeros(6, data_dim))


def test_a_decoder_that_breaks_under_particles_is_named():
    class Convolving(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.ConvTranspose1d(2, 1, 4)

        def forward(self, z):
            return self.conv(z.unsqueeze(-1)).squeeze(-2)

    with pytest.raises(ValueError, match=r"leading particle dimensions.*act on the last dimension"):
        check_story(Decoding(Convolving()), ROWS)


def test_a_decoder_that_mixes_particles_is_named():
    class Mixing(nn.Linear):
        def forward(self, z):
            return super().forward(z - z.mean(0)) if z.dim() > 2 else super().forward(z)

    with pytest.raises(ValueError, match="expected each particle to be scored by itself"):
        check_story(Decoding(Mixing(2, 4)), ROWS)


def test_a_decoder_that_mixes_rows_is_named():
    class Mixing(nn.Linear):
        def forward(self, z):
            return super().forward(z - z.mean(-2, keepdim=True))

    with pytest.raises(ValueError, match="expected each row to be scored by itself"):
        check_story(Decoding(Mixing(2, 4)), ROWS)


def test_batch_normalisation_is_named():
    decoder = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    with pytest.raises(ValueError, match=r"'decoder.1'.*BatchNorm1d.*LayerNorm"):
        check_story(Decoding(decoder), ROWS)


def test_a_wrong_event_shape_is_named():
    with pytest.raises(ValueError, match=r"site 'x': expected rows of shape \(5,\), got \(4,\)"):
        check_story(Decoding(MLP(2, 5, (8,))), ROWS)


def test_data_outside_the_support_name_site_value_row_and_advice():
    case = CASES["hierarchical"]
    story = case.story()
    x = rows_of(case, story)["x"].clone()
    x[7, 1] = 0.5
    with pytest.raises(ValueError, match=r"site 'x'.*\(0 or 1\), got 0.5 in row 7; binarise"):
        check_story(story, x)


def test_a_row_outside_a_simplex_is_named():
    def program(n):
        with pyro.plate("data", n):
            pyro.sample("x", dist.Dirichlet(torch.ones(3)))

    rows = torch.full((4, 3), 1 / 3)
    rows[2] = 0.2
    with pytest.raises(ValueError, match=r"site 'x'.*\(simplex\), got 0.2 in row 2; rescale"):
        check_story(story_of(program), rows)


@pytest.mark.parametrize("batch", [torch.zeros(0, 4), {}, torch.tensor(1.0)])
def test_empty_data_are_an_error(batch):
    with pytest.raises(ValueError, match="at least one"):
        check_story(Decoding(MLP(2, 4, (8,))), batch)


def test_a_site_whose_support_differs_between_rows_is_named():
    def program(n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Uniform(torch.zeros(()), 1.0))
            w = pyro.sample("w", dist.Uniform(torch.zeros(()), 1.0 + z))
            pyro.sample("x", dist.Normal(w, 1.0))

    with pytest.raises(ValueError, match=r"site 'w': expected the same support in every row"):
        check_story(story_of(program), torch.zeros(4))
