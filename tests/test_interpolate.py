r"""From row to row: straight between posterior means, inside the supports, decoded on the way."""

import pytest
import torch
from labelled import Labelled, LabelledGuide
from stories import CASES, built
from test_predict import ExactGuide, adopted_pair

import ppvae
from models.factor_analysis import FactorAnalysis
from ppvae.guides import build
from ppvae.predict import embed, interpolate, reconstruct
from ppvae.stories import load as load_story
from ppvae.story import simulate, trace_sites

NUM_ROWS, NUM_STEPS = 6, 5


@pytest.fixture
def pair():
    torch.manual_seed(0)
    story = FactorAnalysis(data_dim=4, latent_dim=2).double()
    rows = simulate(story, 2 * NUM_ROWS, seed=1)["x"]
    return story, ExactGuide(story), rows[:NUM_ROWS], rows[NUM_ROWS:]


def path(story, guide, one, other, **options):
    return interpolate(story, guide, one, other, num_steps=NUM_STEPS, **options)


def test_a_path_is_straight_between_the_exact_posterior_means_and_decoded(pair):
    story, _, one, other = pair
    found = path(*pair, num_particles=4000)
    assert found["z"].shape == (NUM_STEPS, NUM_ROWS, 2) and found["x"].shape == (
        NUM_STEPS,
        NUM_ROWS,
        4,
    )
    ends = [story.posterior({"x": x}) for x in (one, other)]
    weight = torch.linspace(0, 1, NUM_STEPS).double().reshape(-1, 1, 1)
    straight = (1 - weight) * ends[0].mean + weight * ends[1].mean
    error = (ends[0].variance / 4000).sqrt()  # at most, also between the ends
    assert bool(((found["z"] - straight).abs() < 4.5 * error).all())  # 60 numbers
    decoded = (found["z"] @ story.loadings.T + story.offset).detach()
    torch.testing.assert_close(found["x"], decoded)


def test_a_path_ends_at_the_embeddings_and_the_way_back_is_the_same(pair):
    story, guide, one, other = pair
    there, back = path(*pair), path(story, guide, other, one)
    torch.testing.assert_close(there["z"][0], embed(story, guide, one)["z"].value)
    torch.testing.assert_close(there["z"][-1], embed(story, guide, other)["z"].value)
    torch.testing.assert_close(there["x"], back["x"].flip(0))
    torch.testing.assert_close(*(path(story, guide, one, one)["x"][i] for i in (0, 2)))


def test_a_path_in_pieces_equals_a_path_at_once(pair, monkeypatch):
    story, guide, one, other = pair
    long = {"num_steps": 50, "num_particles": 64}
    whole = interpolate(story, guide, one[:1], other[:1], **long)
    monkeypatch.setattr("ppvae.data.chunks.CHUNK_NUMBERS", 256 * 32)
    pieces = interpolate(story, guide, one[:1], other[:1], **long)
    assert whole["x"].shape == (50, 1, 4)
    assert all(torch.allclose(whole[name], pieces[name]) for name in whole)


def test_more_rows_than_fit_in_a_chunk_stay_in_their_order(pair):
    story, guide, *_ = pair
    x = simulate(story, 1100, seed=2)["x"]
    found = interpolate(story, guide, x, x.flip(0), num_steps=2, num_particles=3)
    assert found["x"].shape == (2, 1100, 4)
    torch.testing.assert_close(found["x"], (found["z"] @ story.loadings.T + story.offset).detach())


@pytest.mark.parametrize("name", CASES)
def test_every_point_lies_in_the_supports_and_is_what_traverse_finds_there(name):
    case = CASES[name]
    story, guide, rows = built(name, 2 * NUM_ROWS)
    one = {k: v[:NUM_ROWS] for k, v in rows.items()}
    other = {k: v[NUM_ROWS:] for k, v in rows.items()} | {k: one[k] for k in case.covariates}
    found = path(story, guide, one, other, num_particles=20)
    sites = trace_sites(story, one)
    assert set(found) == set(sites)
    for site in sites.local_latent.values():
        assert found[site.name].shape == (NUM_STEPS, NUM_ROWS, *site.row_shape)
        assert bool(site.support.check(found[site.name]).all())
    for site in sites.global_latent.values():
        assert found[site.name].shape == site.row_shape
    if not sites.global_latent:
        points = {n: found[n][2] for n in sites.local_latent}  # the middle of each path
        there = ppvae.traverse(story, points, **{k: one[k] for k in case.covariates})
        for seen in case.observed:
            torch.testing.assert_close(found[seen][2], there[seen])


def test_a_global_site_stays_at_its_posterior_mean():
    story, guide, rows = built("global")
    found = path(story, guide, rows, rows)
    torch.testing.assert_close(found["level"], embed(story, guide, rows)["level"].value)


def test_a_mean_is_taken_where_the_numbers_are_real():
    story, guide, rows = built("log_normal")
    size = path(story, guide, rows, rows, num_particles=4000)["size"][0]
    posterior = guide.posterior(rows)
    error = (size.log() - posterior.mean[:, 0]) / (posterior.variance[:, 0] / 4000).sqrt()
    assert bool((error.abs() < 4).all())


def test_an_adopted_pair_is_interpolated(pair):
    loadings = pair[0].loadings.detach().float()
    one, other = (x.float() for x in pair[2:])
    found = path(*adopted_pair(loadings, one), one, other)
    torch.testing.assert_close(found["x"][2], (one + other)[:, :2] / 2 @ loadings.T)


# --- discrete sites, labels, covariates -------------------------------------


def test_a_cluster_that_acts_through_its_cause_alone_needs_no_value():
    rows = (torch.rand(8, 64, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    story = load_story("mixture_vae", {"x": rows})
    found = path(story, build("mean_field", story, rows), rows[:4], rows[4:])
    assert set(found) == {"z", "x"}


def test_a_discrete_site_that_is_decoded_cannot_be_interpolated():
    x = torch.tensor([0.3, 10.2])
    with pytest.raises(ValueError, match=r"site 'y': expected continuous.*given=\['y'\]"):
        interpolate(Labelled(), LabelledGuide(), x, x)
    with pytest.raises(ValueError, match=r"continuous latent site to move along, got only"):
        rows = torch.zeros(4, 64)
        story = load_story("categorical_vae", {"x": rows})
        interpolate(story, build("categorical", story, rows), rows, rows)


def test_labels_are_held_where_both_rows_of_a_pair_share_them():
    one = {"x": torch.tensor([0.3, 10.2]), "y": torch.tensor([0.0, 1.0])}
    found = path(Labelled(), LabelledGuide(), one, one, given=["y"])
    torch.testing.assert_close(found["x"], 10 * one["y"] + found["z"])
    for wrong in (2.0, torch.nan):
        other = {**one, "y": torch.tensor([0.0, wrong])}
        with pytest.raises(ValueError, match="'y': expected one value in both.*in pair 1"):
            path(Labelled(), LabelledGuide(), one, other, given=["y"])


def test_pairs_under_different_covariates_are_refused():
    story, guide, rows = built("covariate")
    with pytest.raises(ValueError, match="'dose': expected one value in both rows"):
        interpolate(story, guide, rows, {**rows, "dose": rows["dose"] + 1})


def test_faulty_requests_are_refused(pair):
    story, guide, one, other = pair
    with pytest.raises(ValueError, match="at least two steps.*num_steps=1"):
        interpolate(*pair, num_steps=1)
    with pytest.raises(ValueError, match=r"got 6 rows of \['x'\] and 5"):
        interpolate(story, guide, one, other[1:])
    made = build("mean_field", story, one)
    with pytest.raises(ValueError, match="parameters of its own rows"):
        interpolate(story, made.local({"x": one}), one, other)
    with pytest.raises(ValueError, match="expected `given` among"):
        interpolate(*pair, given=["z"])


def test_missing_entries_do_not_hinder_a_path(pair):
    story, _, one, other = pair
    one = one.clone()
    one[0, 1] = torch.nan
    guide = build("mean_field", story, one)
    found = path(story, guide, one, other)
    decoded = reconstruct(story, guide, other, num_particles=100)["x"]
    torch.testing.assert_close(
        found["x"][-1], decoded
    )  # linear: the mean decoded, or decoded means
