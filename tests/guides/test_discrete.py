r"""Guides of discrete sites: exact where they sum, unbiased or of known bias where they draw."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from discrete_stories import DRAWS, Codes, Counts, made
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from stories import TwoSites
from test_summing import GaussianMixture, by_hand
from torch import nn

import ppvae
from ppvae.guides.concrete import RelaxedBernoulli, RelaxedOneHot
from ppvae.guides.discrete import FiniteCategorical
from ppvae.problem import Problem
from ppvae.story import log_joint, observe, trace_sites


def test_the_enumerated_elbo_is_the_log_evidence():
    story, batch, guide = made("enumerated", GaussianMixture())
    found = ppvae.elbo(story, guide, batch, num_particles=3)
    truth = by_hand(story, batch["x"]).logsumexp(0)
    torch.testing.assert_close(found.value, truth, rtol=0, atol=1e-6)
    assert float(found.std_error.max()) == 0.0
    assert not list(guide.parameters())


def test_enumerated_draws_and_means_are_the_exact_posterior():
    story, batch, guide = made("enumerated", Codes())
    torch.manual_seed(0)
    chances = ppvae.embed(story, guide, batch, num_particles=2000)
    each = log_p_table(story, batch).flatten(1, 2).logsumexp(1)
    truth = each.T.softmax(-1)
    error = (truth * (1 - truth) / 2000).sqrt()
    assert bool(((chances["word"].value[:, 0] - truth).abs() < 4.5 * error + 1e-6).all())
    assert set(Problem.of(story, guide, batch).draw_all(2).values) == {"word", "coin"}


def log_p_table(story, batch):
    """log p(x, letter, letter, coin) of `Codes`, `(4, 4, 2, B)`, in nats."""
    letters = torch.eye(4).double()
    index = torch.cartesian_prod(torch.arange(4), torch.arange(4), torch.arange(2))
    latents = {"word": letters[index[:, :2]], "coin": index[:, 2].double()}
    num_rows = len(batch["x"])
    latents = {k: v.unsqueeze(1).expand(32, num_rows, *v.shape[1:]) for k, v in latents.items()}
    return log_joint(story, batch, latents).reshape(4, 4, 2, num_rows)


@pytest.mark.parametrize("family", DRAWS)
@pytest.mark.parametrize("continuous", [False, True])
def test_draws_are_in_the_supports_and_their_density_is_the_guides(family, continuous):
    story, batch, guide = made(family, Codes(continuous))
    sites = trace_sites(story, batch)
    guide.eval()
    drawn = Problem.of(story, guide, batch).draw_all(300)
    for name, site in sites.latent.items():
        assert drawn.values[name].shape == (300, 20, *site.row_shape)
        assert bool(site.support.check(drawn.values[name]).all())
    chance = guide.parameters_of(batch)["logits"][:, :8].reshape(20, 2, 4).softmax(-1)
    share = drawn.values["word"].double().mean(0)
    error = (chance * (1 - chance) / 300).sqrt()
    assert bool(((share - chance).abs() < 4.5 * error).all())
    by_hand = (drawn.values["word"] * chance.log()).sum((-1, -2))
    torch.testing.assert_close(drawn.by_site["word"], by_hand)


def test_plain_numbers_in_plates_are_drawn_in_their_own_type():
    story, batch, guide = made("categorical", Counts())
    drawn = Problem.of(story, guide, batch).draw_all(50).values
    assert drawn["heads"].shape == (50, 20) and drawn["heads"].dtype == torch.float64
    assert drawn["kind"].shape == (50, 20, 2) and drawn["kind"].dtype == torch.int64
    assert int(drawn["heads"].max()) <= 4 and int(drawn["kind"].max()) <= 2
    assert ppvae.elbo(story, guide, batch).value.shape == (20,)


def test_finite_categorical_starts_where_it_is_told():
    site_distribution = FiniteCategorical(
        torch.tensor([0.1, 0.6, 0.3]).log(), 5, torch.float32
    ).expand((7,))
    draws = site_distribution.sample((200,))
    assert draws.dtype == torch.float32 and set(draws.unique().tolist()) <= {5.0, 6.0, 7.0}
    torch.testing.assert_close(
        site_distribution.log_prob(torch.full((7,), 6.0)).exp(), torch.full((7,), 0.6)
    )


# Gradients


def gradients(story, batch, guide, num_draws, seed=0):
    """Gradient of the ELBO of one row by the guide's logits, `(num_draws, n)`."""
    torch.manual_seed(seed)
    found = []
    for _ in range(num_draws):
        loss = Trace_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=1)
        loss = loss.differentiable_loss(observe(story), guide, batch)
        found.append(-torch.autograd.grad(loss, guide.logits)[0])
    return torch.stack(found)


class OneRow(PyroModule):
    """A categorical guide of one site with free logits, drawn from a law."""

    def __init__(self, site_distribution):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64))
        self.site_distribution = site_distribution

    def forward(self, batch):
        with pyro.plate("data", 1):
            pyro.sample("k", self.site_distribution(self.logits))


class OneHotMixture(GaussianMixture):
    def forward(self, n):
        with pyro.plate("data", n):
            k = pyro.sample("k", dist.OneHotCategorical(logits=self.log_prior))
            pyro.sample("x", dist.Normal(k @ self.loc, 1.0).to_event(1))


@pytest.fixture(scope="module")
def exact_gradient():
    """One row, and the ELBO's gradient by the logits with the sum over k taken exactly."""
    story = OneHotMixture().double()
    x = torch.tensor([[0.3, 0.1]], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    log_q = logits.log_softmax(0)
    elbo = (log_q.exp() * (by_hand(story, x)[:, 0] - log_q)).sum()
    return story, {"x": x}, torch.autograd.grad(elbo, logits)[0]


def test_the_score_function_gradient_is_unbiased(exact_gradient):
    story, batch, truth = exact_gradient
    found = gradients(story, batch, OneRow(lambda z: dist.OneHotCategorical(logits=z)), 100)
    error = found.std(0) / 10
    assert bool(((found.mean(0) - truth).abs() < 4 * error).all())


def test_the_bias_of_concrete_falls_with_the_temperature_and_its_noise_grows(
    exact_gradient, capsys
):
    story, batch, truth = exact_gradient
    bias, noise = [], []
    for temperature in (1.0, 0.3, 0.05):
        guide = OneRow(lambda z, t=temperature: RelaxedOneHot(z, t, False))
        found = gradients(story, batch, guide, 100)
        bias.append(float((found.mean(0) - truth).norm()))
        noise.append(float((found.std(0) / 10).norm()))
    with capsys.disabled():
        print(f"\nConcrete at temperature 1, 0.3, 0.05: bias {bias}, standard error {noise}")
    assert bias[0] > 4 * noise[0]
    assert bias[0] > 3 * bias[1]
    assert bias[2] < 4 * noise[2]
    assert noise[0] < noise[1] < noise[2]


@pytest.mark.parametrize("site_distribution", [RelaxedOneHot, RelaxedBernoulli])
def test_straight_through_draws_are_whole_and_relaxed_ones_are_not(site_distribution):
    logits = torch.zeros(1000, 3, requires_grad=True)
    torch.manual_seed(0)
    whole = site_distribution(logits, 0.5, True).rsample()
    assert set(whole.detach().unique().tolist()) == {0.0, 1.0}
    assert float(torch.autograd.grad((whole * torch.randn(3)).sum(), logits)[0].norm()) > 0
    soft = site_distribution(logits, 0.5, False).rsample().detach()
    assert float(soft.min()) >= 0 and float(((soft > 0.01) & (soft < 0.99)).float().mean()) > 0.3


def test_a_relaxed_one_hot_prefers_its_letters_at_every_temperature():
    logits = torch.tensor([0.7, 0.2, 0.1]).log()
    torch.manual_seed(0)
    draws = RelaxedOneHot(logits.expand(20000, 3), 0.5, True).rsample().mean(0)
    assert bool(((draws - logits.exp()).abs() < 4 * (0.25 / 20000) ** 0.5).all())


# Training


@pytest.mark.parametrize("family", DRAWS)
def test_training_brings_the_guide_near_the_evidence(family):
    story, batch, guide = made(family, Codes(), n=100)
    story.requires_grad_(False)
    truth = log_joint(story, batch, {})[0].mean()
    before = truth - ppvae.elbo(story, guide, batch).value.mean()
    ppvae.fit(story, guide, batch, epochs=100, lr=0.01, num_particles=4, progress=False)
    after = truth - ppvae.elbo(story, guide, batch).value.mean()
    assert float(after) < 0.35 * float(before)


def test_q_star_of_a_categorical_is_that_of_coordinate_ascent():
    story, batch, guide = made("categorical", Codes(), n=30)
    local = guide.local(batch)
    assert local.optimize(story).converged
    with torch.no_grad():
        found = ppvae.elbo(story, local, batch, num_particles=2000)
        best = best_mean_field(story, batch)
    short = best - found.value
    assert float(short.min()) > -5 * float(found.std_error.max())
    assert float(short.mean()) < 0.03


def best_mean_field(story, batch, num_sweeps=100):
    """ELBO of the best q(word_0) q(word_1) q(coin), by coordinate ascent on the table of log p(x,
    word, coin)."""
    log_p, num_rows = log_p_table(story, batch), len(batch["x"])
    a, b, c = (torch.full((k, num_rows), 1 / k).double() for k in (4, 4, 2))
    for _ in range(num_sweeps):
        a = torch.einsum("abcn,bn,cn->an", log_p, b, c).softmax(0)
        b = torch.einsum("abcn,an,cn->bn", log_p, a, c).softmax(0)
        c = torch.einsum("abcn,an,bn->cn", log_p, a, b).softmax(0)
    entropy = sum(-(q * q.log()).nan_to_num(0.0).sum(0) for q in (a, b, c))
    return torch.einsum("abcn,an,bn,cn->n", log_p, a, b, c) + entropy


def test_the_temperature_cools_in_training_only():
    story, batch, guide = made("concrete", Codes(), temperature=1.0, cooling=0.1)
    ppvae.elbo(story, guide, batch)
    assert guide.temperature == 1.0
    ppvae.fit(story, guide, batch, epochs=3, progress=False)
    assert guide.temperature == pytest.approx(0.9**3)
    other = made("concrete", Codes(), temperature=1.0, cooling=0.1)[2]
    other.load_state_dict(guide.state_dict())
    assert other.temperature == guide.temperature


@pytest.mark.parametrize("family", DRAWS)
def test_pyros_own_loop_trains_it(family, empty_store):
    story, batch, guide = made(family, Codes())
    svi = SVI(observe(story), guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(batch) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])


# Errors


@pytest.mark.parametrize(
    ("family", "story", "options", "message"),
    [
        ("mean_field", Codes, {}, r"only the discrete.*word.*categorical or concrete"),
        ("iaf", Codes, {}, r"only the discrete.*word.*categorical or concrete"),
        ("structured", GaussianMixture, {}, r"'k'.*enumerated.*categorical or concrete"),
        ("categorical", TwoSites, {}, r"discrete latent site.*mean_field"),
        ("concrete", TwoSites, {}, r"discrete latent site.*mean_field"),
        ("concrete", Counts, {}, r"site 'heads'.*OneHotCategorical or Bernoulli"),
        ("enumerated", partial(Codes, True), {}, r"only discrete.*\['z'\].*mean_field"),
        *(
            ("concrete", Codes, options, "0 < final_temperature <= temperature")
            for options in (
                {"temperature": 0.0}, {"temperature": 0.1}, {"cooling": 1.0}, {"cooling": -0.1},
            )
        ),
    ],
)  # fmt: skip
def test_a_story_or_an_option_that_does_not_suit_is_named(family, story, options, message):
    with pytest.raises(ValueError, match=message):
        made(family, story(), **options)
