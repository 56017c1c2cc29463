r"""A batch in parts takes the same step as a whole, with the same draws."""

import math
from copy import deepcopy

import pyro.distributions as pd
import pytest
import torch
import torch.distributions as td
import torch.nn.functional as F

import ppvae
from ppvae.ranks import PartNoise, parts_of
from ppvae.stories import load_story

B = 7
WEIGHTS = torch.rand(B, 3, generator=torch.Generator().manual_seed(0)) + 0.1
HALVES = WEIGHTS.clamp(max=0.9)

# Those whose random bits do not depend on their parameters.
SAME = {
    "normal": lambda s: td.Normal(WEIGHTS[s], WEIGHTS[s]),
    "multivariate": lambda s: td.MultivariateNormal(WEIGHTS[s], torch.eye(3)),
    "low rank": lambda s: pd.LowRankMultivariateNormal(WEIGHTS[s], WEIGHTS[s, :, None], WEIGHTS[s]),
    "laplace": lambda s: td.Laplace(WEIGHTS[s], WEIGHTS[s]),
    "uniform": lambda s: td.Uniform(0 * WEIGHTS[s], WEIGHTS[s]),
    "exponential": lambda s: td.Exponential(WEIGHTS[s]),
    "half cauchy": lambda s: td.HalfCauchy(WEIGHTS[s]),
    "gumbel": lambda s: td.Gumbel(WEIGHTS[s], WEIGHTS[s]),
    "geometric": lambda s: td.Geometric(HALVES[s]),
    "bernoulli": lambda s: td.Bernoulli(HALVES[s]),
    "categorical": lambda s: td.Categorical(WEIGHTS[s]),
    "one hot": lambda s: td.OneHotCategorical(WEIGHTS[s]),
    "concrete": lambda s: pd.RelaxedOneHotCategorical(torch.tensor(0.5), WEIGHTS[s]),
    "mixture": lambda s: pd.MixtureOfDiagNormals(
        WEIGHTS[s, None].expand(-1, 2, 3), WEIGHTS[s, None].expand(-1, 2, 3), WEIGHTS[s, :2]
    ),
}
OWN = {
    "gamma": lambda s: td.Gamma(torch.full((2000, 3), 2.0)[s], 1.0),
    "dirichlet": lambda s: td.Dirichlet(torch.full((2000, 3), 2.0)[s]),
    "poisson": lambda s: td.Poisson(torch.full((2000, 3), 2.0)[s]),
    "binomial": lambda s: td.Binomial(10, torch.full((2000, 3), 0.3)[s]),
}


@pytest.mark.parametrize("count", [2, 3, 9])
@pytest.mark.parametrize("particles", [None, 1, 5])
@pytest.mark.parametrize("name", SAME)
def test_parts_draw_what_the_whole_draws(name, particles, count):
    shape, rows_dim = ((), 0) if particles is None else ((particles,), 1)
    if name == "mixture" and particles:
        pytest.skip("its own sampler takes no shape in front of the rows")
    torch.manual_seed(1)
    whole, later = SAME[name](slice(None)).sample(shape), torch.rand(())
    drawn = []
    for part in parts_of(B, count):
        torch.manual_seed(1)
        with PartNoise(part):
            own = SAME[name](part.rows).sample(shape)
        assert torch.rand(()) == later
        drawn.append(own.narrow(rows_dim, 0, part.stop - part.first))
    assert torch.equal(torch.cat(drawn, rows_dim), whole)


@pytest.mark.parametrize("name", OWN)
def test_parts_draw_others_independently_from_the_same_distribution(name):
    drawn, after = [], set()
    for part in parts_of(2000, 2):
        torch.manual_seed(1)
        with PartNoise(part):
            drawn.append(OWN[name](part.rows).sample())
        after.add(float(torch.rand(())))
    assert len(after) == 1
    one, two = drawn
    assert abs(
        float(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1])
    ) < 4 / math.sqrt(3000)
    fn = OWN[name](slice(None))
    error = 4 * fn.stddev[0] / math.sqrt(2000)
    assert (torch.cat(drawn).mean(0) - fn.mean[0]).abs().lt(error).all()


def test_parts_drop_what_the_whole_drops():
    torch.manual_seed(1)
    whole = F.dropout(WEIGHTS, 0.4)
    drawn = []
    for part in parts_of(B, 3):
        torch.manual_seed(1)
        with PartNoise(part):
            drawn.append(torch.nn.Dropout(0.4)(WEIGHTS[part.rows]))
    assert torch.equal(torch.cat(drawn), whole)


@pytest.mark.parametrize("draw", [lambda p: p.bernoulli(), lambda p: p.multinomial(2)])
def test_parts_draw_by_methods_too(draw):
    torch.manual_seed(1)
    whole = draw(HALVES)
    drawn = []
    for part in parts_of(B, 3):
        torch.manual_seed(1)
        with PartNoise(part):
            drawn.append(draw(HALVES[part.rows]))
    assert torch.equal(torch.cat(drawn), whole)


def test_parts_differ_by_a_row_at_most_and_an_empty_one_has_no_share():
    parts = parts_of(2, 3)
    assert [p.stop - p.first for p in parts] == [0, 1, 1]
    assert sum(p.share for p in parts) == 1
    assert [p.rows for p in parts] == [slice(0, 1), slice(0, 1), slice(1, 2)]


@pytest.mark.parametrize("objective", ["trace_elbo", "iwae", "stl"])
def test_accumulated_pieces_take_the_step_of_the_whole_batch(objective):
    torch.manual_seed(0)
    rows = ppvae.data.load("digits").head(61)
    story = load_story("vae", rows.batch(), latent_dim=3).double()
    guide = ppvae.guides.build("iaf", story, rows, hidden=(16,))
    found = []
    for pieces in (1, 3, 25):  # the last batch has 21 rows: some pieces have none
        pair = deepcopy((story, guide))
        history = ppvae.fit(
            *pair, rows, val=rows, epochs=2, batch_size=20, accumulate=pieces, objective=objective, num_particles=2,
            progress=False,
        )  # fmt: skip
        found.append([*pair[0].parameters(), *pair[1].parameters()])
        found[-1].append(torch.tensor(history.column("loss")))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-9)


def test_parts_draw_the_noise_of_the_whole_where_all_rows_share_its_parameters():
    torch.manual_seed(1)
    whole = torch.normal(0.0, 2.0, (B, 3))
    for given in ({"size": (B, 3)}, {}):
        drawn = []
        for part in parts_of(B, 2):
            torch.manual_seed(1)
            shape = (part.stop - part.first, 3)
            with PartNoise(part):
                drawn.append(
                    torch.normal(0.0, 2.0, size=shape) if given else torch.normal(0.0, 2.0, shape)
                )
        assert torch.equal(torch.cat(drawn), whole)
