r"""The examples on image stories, letters, topics and tables run with small settings, and measure
what they say."""

import math
import os
from pathlib import Path

import pytest
import torch
from load_example import load_example

pytestmark = pytest.mark.slow

REAL = Path(os.environ.get("PPVAE_DATA", "nowhere"))


@pytest.mark.slow
def test_what_stories_make_up_is_laid_out(tmp_path: Path) -> None:
    run = load_example("what_do_the_stories_make_up")
    few = {"rows": 60, "epochs": 1, "results": None, "pictures": tmp_path}
    stories = ("conv_vae", "semi_supervised_vae", "conditional_vae", "incomplete_vae")
    found = run.main("digits", stories=stories, **few)
    assert all(math.isfinite(one["elbo"]) for one in found["stories"].values())
    assert (tmp_path / "gallery.png").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    not (REAL / "FashionMNIST").is_dir(), reason="needs FashionMNIST under PPVAE_DATA"
)
def test_bits_of_clothes_are_bounded_for_each_rival_and_taken_up_where_they_stopped(
    tmp_path: Path,
) -> None:
    run = load_example("how_many_bits_do_clothes_take")
    few = {
        "rows": 400, "test_rows": 40, "epochs": 2, "particles": 5,
        "results": tmp_path / "found.json", "runs": tmp_path / "runs",
    }  # fmt: skip
    found = run.main(**few)
    assert run.main(**few, pictures=tmp_path) == found
    assert (tmp_path / "clothes.png").exists()
    assert all(2 < one["bits"] < 8 for one in found["rivals"].values())
    for name in run.RIVALS[1:]:
        one = found["rivals"][name]
        assert one["bits"] < one["bits_by_elbo"]
    assert "conv_vae" in run.table(found)


def test_pixels_alone_are_scored_by_their_counts() -> None:
    run = load_example("how_many_bits_do_clothes_take")
    train = torch.tensor([[0.0], [0.0], [1.0]])
    log_p = run.pixels_alone(train, torch.tensor([[0.0], [1.0], [128 / 255]]))
    expected = torch.tensor([3.0, 2.0, 1.0]).log() - math.log(3 + 256)
    torch.testing.assert_close(log_p, expected)


@pytest.mark.slow
def test_letters_are_learned_in_every_way_and_taken_up_where_they_stopped(tmp_path: Path) -> None:
    run = load_example("can_letters_be_learned")
    few = {
        "data": "digits", "rows": 300, "test_rows": 30, "epochs": 3, "particles": 20,
        "results": tmp_path / "found.json", "runs": tmp_path / "runs",
    }  # fmt: skip
    found = run.main(**few)
    assert run.main(**few) == found and list(found["ways"]) == list(run.WAYS)
    for one in found["ways"].values():
        assert sum(one["log_p_by_row"]) > sum(one["elbo_by_row"]) > -30 * 50
    with pytest.raises(ValueError, match="remove it first"):
        run.main(**{**few, "epochs": 4})


@pytest.mark.slow
def test_a_story_is_asked_for_digits_and_read_better_than_chance(tmp_path: Path) -> None:
    run = load_example("can_a_story_be_asked_for_a_digit")
    few = {"rows": 1200, "epochs": 20, "a_class": 30, "causes": (run.PICTURED, 8)}
    found = run.main("digits", **few, results=None, pictures=tmp_path)
    for one in found["causes"].values():
        share, error = one["drawn"]
        assert share > 0.1 + 4 * error
    assert list(found["causes"]) == ["2", "8"] and found["test_rows"][0] > 0.8
    assert (tmp_path / "asked_for_digits.png").exists() and "8" in run.table(found)


@pytest.mark.slow
def test_the_plane_is_pictured(tmp_path: Path) -> None:
    run = load_example("what_does_the_plane_hold")
    found = run.main("digits", rows=300, epochs=2, pictures=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"plane.png", "plane_of_rows.png"}
    assert list(found) == [2, 10]


@pytest.mark.slow
def test_topics_come_nearer_to_the_truth() -> None:
    run = load_example("do_topics_come_back")
    found = run.known_topics(documents=1000, epochs=30, particles=50)
    assert sum(found["total_variation"]) < 0.5 * sum(found["total_variation_before"])
    assert found["total_variation"][0] < 0.15


def test_topics_are_matched_whatever_their_order() -> None:
    run = load_example("do_topics_come_back")
    true = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    found = true[[2, 0, 1]] + torch.tensor([0.1, -0.1, 0.0])
    assert run.matched(found, true) == pytest.approx([0.1, 0.1, 0.1])
    assert run.scale_of(torch.eye(12)[[2, 6, 9]].mean(0))["share"] == pytest.approx(1.0)


def test_the_total_of_a_document_is_scored_by_quadrature() -> None:
    run = load_example("do_topics_come_back")
    story = run.story_class("topic_model")(num_words=5, num_topics=2, length=20.0)
    mass = run.log_total(story, torch.arange(400.0)).exp()
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-4)
    mean = math.exp(math.log(20) + 0.3**2 / 2)
    assert float((mass * torch.arange(400.0)).sum()) == pytest.approx(mean, rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "JSBChorales").is_dir(), reason="needs the chorales in PPVAE_DATA")
def test_phrases_of_chorales_are_blends_of_keys() -> None:
    found = load_example("do_topics_come_back").keys_of_bach(epochs=30, particles=50)
    assert found["gain_nats_a_phrase"] > 4 * found["gain_std_error"]
    assert found["topics"][0]["share"] > found["all_notes"]["share"]


@pytest.mark.slow
def test_empty_cells_are_filled_better_than_with_means() -> None:
    run = load_example("can_empty_cells_be_filled")
    run.TABLES = {"wine": run.wine}
    found = run.main(epochs=60, num_draws=50, results=None)
    amounts = found["tables"]["wine"]["kinds"]["amount"]
    assert amounts["error"] < 0.95 * amounts["error_of_means"]
    assert 0.8 < amounts["coverage"] < 0.97
    grower = found["tables"]["wine"]["kinds"]["choice"]
    assert grower["right"] > grower["right_by_the_usual"]
    assert "wine" in run.table(found)


def test_the_tables_have_columns_of_several_kinds() -> None:
    run = load_example("can_empty_cells_be_filled")
    patients = run.with_holes(run.diabetes())
    assert {k: v.shape[1] for k, v in patients.items()} == {
        "real": 1, "amount": 8, "count": 1, "answer": 1,
    }  # fmt: skip
    hidden = sum(int(v.isnan().sum()) for v in patients.values())
    assert abs(hidden / (442 * 11) - 0.2) < 4 * (0.2 * 0.8 / (442 * 11)) ** 0.5
