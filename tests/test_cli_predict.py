r"""The commands that ask what is trained: what they write, and refuse before they train."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from ppvae.cli import main
from ppvae.cli.output import write_numbers

pytestmark = pytest.mark.usefixtures("in_a_new_folder")

PNG = b"\x89PNG"
SMALL = ["--epochs", "1", "--set", "latent_dim=2", "--no-progress"]


def ran(capsys, *typed):
    """What a command says, once it has done its work."""
    assert main(list(typed)) == 0
    return capsys.readouterr()


@pytest.fixture
def holed(tmp_path):
    """A file of 40 rows of 5 numbers, of which a fifth is missing."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 5))
    x[generator.random(x.shape) < 0.2] = np.nan
    np.save(tmp_path / "holed.npy", x.astype(np.float32))
    return x.astype(np.float32)


def test_a_run_of_digits_is_decoded_again_and_walked(capsys):
    ran(
        capsys, "fit", "vae", "--data", "digits", "--guide", "full_rank", "--run-dir", "run", *SMALL
    )
    shown = ran(capsys, "reconstruct", "run", "--rows", "20")
    assert "training first" not in shown.err
    assert "pictures: reconstructed.png" in shown.out and "(20 rows of x)" in shown.out
    x = np.load("reconstructed.npz")["x"]
    assert x.shape == (20, 64) and 0 < x.min() < x.max() < 1  # chances, not bits
    shown = ran(capsys, "traverse", "run", "--num-steps", "3", "--row", "5")
    assert "3 values of each of z[" in shown.out and "training first" not in shown.err
    walked = np.load("traversed.npz")
    assert walked["z"].shape == (6, 2) and walked["x"].shape == (6, 64)
    assert sorted(walked["changed"]) == ["z[0]"] * 3 + ["z[1]"] * 3
    assert all(
        Path(f"{n}.png").read_bytes().startswith(PNG) for n in ("reconstructed", "traversed")
    )


def test_holes_of_a_file_are_filled_in_its_own_order(holed, capsys):
    ran(capsys, "fit", "incomplete_vae", "--data", "holed.npy", "--run-dir", "run", *SMALL)
    shown = ran(capsys, "impute", "run", "--split", "all", "--num-draws", "20", "--table", "f.npz")
    missing = np.isnan(holed)
    assert f"filled {missing.sum()} of 200 entries of x" in shown.out
    assert "no pictures: rows of shape (5,)" in shown.out and not Path("imputed.png").exists()
    found = np.load("f.npz")
    assert set(found) == {"x", "x_lower", "x_upper"}
    for name in found:
        assert np.array_equal(found[name][~missing], holed[~missing])
        assert np.isfinite(found[name]).all()
    assert (found["x_lower"] < found["x_upper"])[missing].all()
    ran(capsys, "impute", "run", "--split", "all", "--num-draws", "20", "--table", "f.csv")
    with open("f.csv", newline="") as file:
        header, *lines = csv.reader(file)
    assert header[:5] == [f"x[{k}]" for k in range(5)] and header[5] == "x_lower[0]"
    assert np.array_equal(np.array(lines, dtype=np.float32)[:, :5], found["x"])


def test_pictures_with_holes_are_filled_and_drawn(capsys):
    shown = ran(capsys, "impute", "incomplete_vae", "--rows", "6", "--num-draws", "5", *SMALL)
    assert "training first" in shown.err
    assert Path("imputed.png").read_bytes().startswith(PNG)
    assert np.load("imputed.npz")["x_upper"].shape == (6, 64)


def test_labels_are_held_unasked_and_imputed(capsys):
    typed = ["semi_supervised_vae", "--rows", "5", *SMALL]
    ran(capsys, "reconstruct", *typed)
    assert set(np.load("reconstructed.npz")) == {"x"}
    shown = ran(capsys, "impute", *typed, "--num-draws", "5")
    assert "5 of 5 entries of y" in shown.out and "no pictures" in shown.out
    assert set(np.load("imputed.npz")) == {"x", "y", "y_share"}


def test_a_story_without_pictures_writes_numbers_alone(capsys):
    shown = ran(capsys, "traverse", "plucked_string", "--epochs", "1", "--table", "walk.csv")
    assert "no pictures: rows of shape (808,)" in shown.out and not Path("traversed.png").exists()
    with open("walk.csv", newline="") as file:
        header, *lines = csv.reader(file)
    assert header[:4] == ["changed", "pitch", "decay", "brightness"] and len(lines) == 27


def test_numbers_of_sites_with_any_name_are_written(tmp_path):
    named = {"file": torch.arange(3.0), "rows.loc": torch.ones(3, 2)}
    write_numbers(tmp_path / "n.npz", named, {})
    found = np.load(tmp_path / "n.npz")
    assert set(found) == set(named) and found["file"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["impute", "vae"], "missing entries (NaN) at an observed site, got rows that miss"),
        (["impute", "tabular_vae", "--split", "all"], "expected --split train, valid or test"),
        (["impute", "vae", "--num-draws", "0"], "--num-draws"),
        (["reconstruct", "vae", "--out", "x.gif"], "expected --out to be a .png file"),
        (["reconstruct", "vae", "--table", "absent/x.npz"], "--table to be a .npz or .csv"),
        (["reconstruct", "vae", "--split", "some"], "some"),
        (["reconstruct", "vae", "--given", "z"], "expected `given` among ['x'], got ['z']"),
        (["reconstruct", "tabular_vae"], "site 'choice': expected a distribution with a mean"),
        (["traverse", "vae", "--row", "250"], "expected a row from 0 to 249 to start at, got 250"),
        (["traverse", "vq_vae"], "a continuous latent site to move along, got only ['codes']"),
        (["traverse", "vae", "--num-steps", "1"], "expected at least two steps"),
    ],
)  # fmt: skip
def test_bad_words_are_refused_before_anything_is_trained(typed, message, capsys, tmp_path):
    assert main(typed) == 2
    shown = capsys.readouterr()
    assert len(shown.err.splitlines()) == 1 and message in shown.err, shown.err
    assert list(tmp_path.iterdir()) == []
