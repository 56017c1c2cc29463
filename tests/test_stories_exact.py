r"""What the gallery's stories say in closed form, held against sums, draws and other libraries."""

from itertools import product

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from sklearn.decomposition import PCA

import ppvae
from ppvae.stories import load as load_story
from ppvae.stories import story_class
from ppvae.story import LogJoint, local_params, seeded


def made(name, **options):
    with seeded(0):
        return story_class(name)(**options).double()


def test_pca_at_the_maximum_likelihood_is_that_of_scikit_learn():
    with seeded(1):
        rows = torch.randn(300, 6).double() @ torch.randn(6, 6).double()
    story = made("probabilistic_pca", data_dim=6, latent_dim=2)
    story.set_to_maximum_likelihood(rows)
    other = PCA(2).fit(rows.numpy())
    # scikit-learn divides by N - 1, maximum likelihood by N
    variance = other.noise_variance_ * 299 / 300
    assert float(story.noise_scale.detach() ** 2) == pytest.approx(variance, rel=1e-6)
    best = float(story.log_evidence({"x": rows}).mean().detach())
    with torch.no_grad():
        for parameter in (story.loadings, story.offset):
            parameter.add_(0.05)
            assert float(story.log_evidence({"x": rows}).mean()) < best
            parameter.sub_(0.05)


def test_the_posterior_of_pca_is_joint_over_evidence():
    story = made("probabilistic_pca", data_dim=4, latent_dim=2)
    batch = {"x": ppvae.simulate(story, 5, seed=0)["x"]}
    z = torch.randn(3, 5, 2).double()
    with torch.no_grad():
        log_joint = LogJoint(story, batch)({"z": z})
        found = story.posterior(batch).log_prob(z) + story.log_evidence(batch)
    torch.testing.assert_close(found, log_joint)


def discretised_logistic():
    return __import__("sys").modules[story_class("conv_vae").__module__].DiscretisedLogistic


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_levels_of_a_discretised_logistic_have_mass_one(levels):
    loc = torch.tensor([0.0, 0.03, 0.5, 1.2]).double()
    values = (torch.arange(levels).double() / (levels - 1)).unsqueeze(-1)
    for scale in (1e-4, 0.01, 0.1, 1.0):
        fn = discretised_logistic()(loc, torch.full_like(loc, scale), levels)
        mass = fn.log_prob(values).exp()
        torch.testing.assert_close(mass.sum(0), torch.ones_like(loc), atol=1e-12, rtol=0)
        with seeded(0):
            drawn = fn.sample((20_000,))
        assert bool(fn.support.check(drawn).all())
        share = torch.stack([(drawn == level).double().mean(0) for level in values[:, 0]])
        error = (mass * (1 - mass) / 20_000).sqrt()
        assert bool(((share - mass).abs() <= 5 * error + 1e-4).all())  # up to 256 x 16 shares


def test_a_discretised_logistic_pulls_from_far_out_in_a_tail_too():
    loc = torch.tensor(0.1, dtype=torch.float32, requires_grad=True)
    log_mass = discretised_logistic()(loc, torch.tensor(1e-3), 256).log_prob(torch.tensor(0.8))
    log_mass.backward()
    assert float(log_mass.detach()) == pytest.approx(
        -(204 / 255 - 0.1 - 0.5 / 255) / 1e-3, rel=1e-3
    )
    assert float(loc.grad) == pytest.approx(1e3, rel=1e-3)  # one over the scale


def test_shades_between_two_levels_are_refused():
    story = load_story("conv_vae", {"x": torch.zeros(2, 1, 4, 4)}, levels=256)
    between = {"x": torch.full((2, 1, 4, 4), 100.5 / 255)}
    with pytest.raises(ValueError, match=r"256 levels from 0 to 1\), got 0.394118 in row 0"):
        ppvae.check_story(story, between)
    with pytest.raises(ValueError, match="expected 2, 17, 256 equally spaced levels"):
        load_story("conv_vae", between)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_number_of_levels_is_read_off_the_pictures(levels):
    x = torch.linspace(0, 1, levels).expand(2, 1, 1, levels)
    assert load_story("conv_vae", {"x": x}).levels == levels


def test_flat_pictures_are_no_pictures():
    with pytest.raises(ValueError, match=r"expected pictures \(B, C, H, W\) at 'x', got \(2, 16\)"):
        load_story("conv_vae", {"x": torch.zeros(2, 16)})


def test_bits_per_dimension_of_even_levels_are_the_logarithm_of_their_number():
    story = load_story("conv_vae", {"x": torch.zeros(2, 1, 4, 4)}, levels=4)
    nats = -16 * torch.tensor(4.0).log()
    assert float(story.bits_per_dimension(nats)) == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_chances_of_all_sentences_sum_to_one_and_are_those_of_draws(temperature):
    story = made("vq_vae", num_pixels=4, num_places=2, num_codes=3, code_dim=2, grammar_width=5)
    module = __import__("sys").modules[type(story).__module__]
    site_distribution = module.Sentence(story.grammar, temperature)
    eye = torch.eye(3).double()
    every = torch.stack([torch.stack([eye[a], eye[b]]) for a, b in product(range(3), repeat=2)])
    chance = site_distribution.log_prob(every).exp().detach()
    assert float(chance.sum()) == pytest.approx(1.0, abs=1e-9)
    with seeded(0):
        drawn = site_distribution.expand([20_000]).sample()
    number = drawn[:, 0].argmax(-1) * 3 + drawn[:, 1].argmax(-1)
    share = number.bincount(minlength=9) / 20_000
    assert bool(((share - chance).abs() < 4 * (chance * (1 - chance) / 20_000).sqrt()).all())


def test_the_odds_of_a_code_see_those_before_it_alone():
    story = made("vq_vae", num_pixels=4, num_places=4, num_codes=3, code_dim=2, grammar_width=5)
    codes = ppvae.simulate(story, 2, seed=0)["codes"]
    odds = story.grammar(codes)
    for place in range(4):
        other = codes.clone()
        other[:, place] = 1 - other[:, place]
        moved = ((story.grammar(other) - odds) != 0).any(-1)
        assert moved.tolist() == [[m > place for m in range(4)]] * 2


def test_the_vamp_prior_is_an_even_mixture():
    story = made("vamp_vae", num_pixels=6, latent_dim=2, num_components=5, hidden=(8,))
    site_distribution = story.prior()
    plain = dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros(5).double()),
        dist.Normal(site_distribution.loc, site_distribution.scale).to_event(1),
    )
    z = torch.randn(7, 2).double()
    torch.testing.assert_close(site_distribution.log_prob(z), plain.log_prob(z))
    with seeded(0):
        drawn = site_distribution.expand([50_000]).sample()
    error = drawn.std(0) / 50_000**0.5
    assert bool(((drawn.mean(0) - site_distribution.loc.mean(0)).abs() < 4 * error).all())


def test_the_kind_given_the_causes_is_bayes_rule():
    story = made("mixture_vae", num_pixels=4, num_kinds=3, latent_dim=2, hidden=(8,))
    with torch.no_grad():
        story.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
        rows = ppvae.simulate(story, 6, seed=0)
        latents = {"z": rows["z"].expand(3, 6, 2), "kind": torch.arange(3)[:, None].expand(3, 6)}
        joint = LogJoint(story, {"x": rows["x"]})(latents)  # (3, 6)
        with local_params(story):
            said = story.log_kind(rows["z"])
    torch.testing.assert_close(said, joint.log_softmax(0).T)


def test_the_class_given_picture_and_style_is_bayes_rule():
    story = made("semi_supervised_vae", num_pixels=4, num_classes=3, latent_dim=2, hidden=(8,))
    rows = ppvae.simulate(story, 6, seed=0)
    missing = {"x": rows["x"], "y": torch.full((6,), torch.nan).double()}
    with torch.no_grad():
        joint = LogJoint(story, missing)
        latents = {"z": rows["z"].expand(3, 6, 2), "y": torch.arange(3)[:, None].expand(3, 6)}
        each = LogJoint(story, {"x": rows["x"]})(latents)
        said = story.log_class(rows["x"], rows["z"])
        torch.testing.assert_close(joint({"z": rows["z"][None]})[0], each.logsumexp(0))
    torch.testing.assert_close(said, each.log_softmax(0).T)


def test_layers_of_causes_start_as_one_layer():
    story = made("hierarchical_vae", num_pixels=5, latent_dims=(2, 3, 1), hidden=(8,))
    rows = ppvae.simulate(story, 4, seed=0)
    given = {k: rows[k][None] for k in ("z_3", "z_2", "z_1")}
    with torch.no_grad():
        by_site = LogJoint(story, {"x": rows["x"]}).by_site(given)
    for name, z in given.items():
        expected = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        torch.testing.assert_close(by_site[name], expected, atol=2e-3, rtol=0)


def test_shares_of_topics_sum_to_one_and_counts_to_the_length():
    story = made("topic_model", num_words=8, num_topics=3)
    rows = ppvae.simulate(story, 20_000, seed=0)
    shares = story.shares(rows["z"])
    torch.testing.assert_close(shares.sum(-1), torch.ones(20_000).double())
    error = (rows["x"].sum(-1) - rows["length"]) / rows[
        "length"
    ].sqrt()  # Poisson: mean 0, variance 1
    assert abs(float(error.mean())) < 4 / 20_000**0.5
    assert abs(float(error.var()) - 1) < 4 * (2 / 20_000) ** 0.5 * 1.1


def test_a_string_sounds_at_its_pitch_and_dies_down_in_its_time():
    story = made("plucked_string", rate=8000, num_partials=1)
    moments = torch.arange(8000).double() / 8000
    pitch, decay = torch.tensor([12.0]).double(), torch.tensor([0.25]).double()
    wave = story.sound(pitch, decay, torch.tensor([0.5]).double(), moments)[0]
    spectrum = np.abs(np.fft.rfft(wave.numpy()))
    assert int(spectrum.argmax()) == 440  # an octave above 220 hertz
    early, late = wave[:400].square().mean(), wave[2000:2400].square().mean()  # 0.25 s apart
    assert float((early / late).log()) == pytest.approx(2.0, abs=0.01)
    assert float(wave.abs().max()) <= 1


def test_a_table_is_scored_without_its_empty_cells():
    story = made("tabular_vae")
    rows = ppvae.simulate(story, 5, seed=0)
    whole = {k: rows[k].double() for k in ("real", "amount", "count", "answer", "choice")}
    holes = {k: v.clone() for k, v in whole.items()}
    holes["real"][:, 0] = torch.nan
    holes["choice"][:, 1] = torch.nan
    z = {"z": rows["z"][None]}
    with torch.no_grad():
        full = LogJoint(story, whole).by_site(z)
        part = LogJoint(story, holes).by_site(z)
    for name in ("amount", "count", "answer"):
        torch.testing.assert_close(part[name], full[name])
    assert bool((part["choice"] > full["choice"]).all())


def test_a_chain_of_states_is_scored_as_the_product_of_its_moves():
    story = made("deep_markov", num_steps=3, num_keys=4, latent_dim=2)
    rows = ppvae.simulate(story, 5, seed=0)
    z = {f"z_{t}": rows[f"z_{t}"][None] for t in (1, 2, 3)}
    with torch.no_grad():
        by_site = LogJoint(story, {"x": rows["x"]}).by_site(z)
        for t in (2, 3):
            loc, scale = story.move(z[f"z_{t - 1}"])
            expected = dist.Normal(loc, scale).log_prob(z[f"z_{t}"]).sum(-1)
            torch.testing.assert_close(by_site[f"z_{t}"], expected)
