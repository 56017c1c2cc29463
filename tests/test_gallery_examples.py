r"""The examples on the gallery's stories run with small settings, and measure what they say."""

import math
import os
from pathlib import Path

import pytest
import scipy.io.wavfile
import torch
from load_example import load_example


@pytest.mark.slow
def test_both_ways_to_read_digits_beat_chance_after_a_little_training() -> None:
    run = load_example("do_unlabelled_digits_help")
    found = run.main(rows=200, test_rows=200, epochs=(25, 1), steps=60, seeds=(0,), results=None)
    chance, error = 0.1, (0.1 * 0.9 / found["test_rows"]) ** 0.5
    for key in ("accuracy_story", "accuracy_labels_alone"):
        assert found[key][0] > chance + 4 * error
    assert "labels alone" in run.table(found)


@pytest.mark.slow
def test_layers_and_priors_are_measured_and_taken_up_where_they_stopped(tmp_path: Path) -> None:
    run = load_example("do_two_layers_beat_one")
    few = {
        "data": "digits", "rows": 200, "test_rows": 20, "epochs": 1, "particles": 50, "seeds": (0,),
        "results": tmp_path / "found.json", "runs": tmp_path / "runs",
    }  # fmt: skip
    first = run.main(rivals=("one layer",), **few)
    whole = run.main(**few, pictures=tmp_path)
    assert (tmp_path / "layers_and_priors.png").exists()
    assert list(whole["rivals"]) == list(run.RIVALS)
    assert whole["rivals"]["one layer"] == first["rivals"]["one layer"]
    assert all(
        r["seeds"]["0"]["log_p"] >= r["seeds"]["0"]["elbo"] for r in whole["rivals"].values()
    )
    assert run.table(whole).count("±") == len(run.RIVALS) - 1
    with pytest.raises(ValueError, match="remove it first"):
        run.main(**{**few, "epochs": 2})


@pytest.mark.slow
def test_a_deep_hierarchy_is_measured_under_each_guide(tmp_path: Path) -> None:
    run, file = load_example("do_deep_layers_stay_awake"), tmp_path / "found.json"
    found = run.main("digits", rows=200, test_rows=30, epochs=2, particles=50, results=file)
    assert list(found["guides"]) == list(run.GUIDES)
    for one in found["guides"].values():
        assert sum(one["log_p_by_row"]) > sum(one["elbo_by_row"])
        assert set(one["active_units"]) == {"z_1", "z_2", "z_3", "z_4"}
    assert run.table(found).count("±") == 2 * (len(run.GUIDES) - 1) and file.exists()


@pytest.mark.slow
def test_clusters_are_held_against_the_labels() -> None:
    run = load_example("do_clusters_find_the_digits")
    found = run.main(epochs=(3, 1), seeds=(0,), results=None)
    assert found["rand_index_k_means"] > 0.3 and -0.5 < found["rand_index"] < 1
    assert found["rand_index"] == found["seeds"]["0"]["rand_index"]


@pytest.mark.slow
def test_causes_fill_holes_better_than_means() -> None:
    found = load_example("can_causes_fill_the_holes").main(
        data="digits", epochs=25, num_draws=100, results=None
    )
    assert found["error"] < found["error_of_means"]
    assert 0.8 < found["coverage"] < 1.0


@pytest.mark.slow
def test_the_elbo_of_held_out_rows_rises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_example("does_a_face_take_shape")
    monkeypatch.setattr(run, "SHAPE", (8, 8))
    few = {"epochs": 2, "latent_dim": 3, "data": "digits", "particles": 10}
    found = run.main(**few, results=None, pictures=tmp_path)
    assert found["valid_elbo"][-1] > found["valid_elbo"][0]
    assert found["test_iwelbo_10"] > found["test_elbo"]
    assert {p.name for p in tmp_path.iterdir()} == {"frey_face.png", "frey_face_plane.png"}


@pytest.mark.slow
def test_strings_are_heard_better_row_by_row(tmp_path: Path) -> None:
    run = load_example("can_a_string_be_heard")
    found = run.main(
        held_out=100, fit_local=10, epochs=5, max_steps=80, num_draws=200, results=None,
        wav=tmp_path / "pair.wav",
    )  # fmt: skip
    errors = [found[kind]["pitch"]["median_error"] for kind in ("amortized", "local")]
    assert errors[1] < errors[0]
    for one in found[
        "amortized"
    ].values():  # wide after so few steps, and yet right: 90 of 100, ± 4 sd
        assert abs(one["coverage"] - 0.9) < 4 * (0.9 * 0.1 / 100) ** 0.5
    rate, wave = scipy.io.wavfile.read(tmp_path / "pair.wav")
    assert rate == run.RATE and len(wave) == 2 * rate and abs(wave).max() > 1000


@pytest.mark.slow
def test_digits_are_told_in_codes_and_new_ones_written(tmp_path: Path) -> None:
    run = load_example("can_codes_write_digits")
    found = run.main(
        "digits", test_rows=200, epochs=(4, 4), reader_epochs=5, results=None, pictures=tmp_path
    )
    assert found["elbo"] == pytest.approx(found["log_x_given_codes"] + found["log_codes"])
    assert found["log_x_given_codes"] > -64 * math.log(2)  # better than a coin for each pixel
    assert found["log_codes"] > found["log_codes_all_alike"]
    assert found["reader_is_right"] > 0.5
    assert {"digits", "codes at random", "written at 1"} < set(found["reader_is_sure"])
    assert (tmp_path / "codes.png").exists()


@pytest.mark.slow
def test_chorales_become_pieces_and_sound(tmp_path: Path) -> None:
    run = load_example("do_chords_remember")
    rolls = run.pieces([[[60, 64]] * (run.STEPS + 1)])
    assert rolls.shape == (2, run.STEPS, run.KEYS)
    assert len(run.single_steps(rolls)) == run.STEPS + 1
    assert rolls[0, 0].nonzero().flatten().tolist() == [60 - run.LOWEST, 64 - run.LOWEST]
    run.play(rolls[0][:2], tmp_path / "two.wav")
    rate, wave = scipy.io.wavfile.read(tmp_path / "two.wav")
    assert len(wave) == 2 * int(rate * run.SECONDS_A_STEP)


def test_one_head_serves_every_step_of_a_chorale_and_starts_as_that_of_single_steps() -> None:
    run = load_example("do_chords_remember")
    start = torch.nn.Linear(4, 4)
    head = run.StepHead(3, start)
    read = torch.randn(5, 3, 4 + run.WIDTH)
    flat = head(read.flatten(1))
    loc, raw_scale = flat[:, :6].reshape(5, 3, 2), flat[:, 6:].reshape(5, 3, 2)
    expected = start(read[..., :4])
    torch.testing.assert_close(torch.cat([loc, raw_scale], -1), expected)


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(os.environ.get("PPVAE_DATA", "")) / "JSBChorales").is_dir(),
    reason="needs the chorales in PPVAE_DATA",
)
def test_chords_and_single_steps_are_measured() -> None:
    found = load_example("do_chords_remember").main(epochs=1, few=12, particles=20, results=None)
    assert found["independent_steps"]["log_p"] > found["independent_steps"]["elbo"]
    assert found["deep_markov"]["log_p"] > found["deep_markov"]["elbo"]
