r"""Bad input is answered with one line and exit code 2, before anything is written."""

import re

import numpy as np
import pytest
import torch

from ppvae.cli import main

pytestmark = pytest.mark.usefixtures("in_a_new_folder")

NO_PLATE = """
import pyro, torch
import pyro.distributions as dist
from pyro.nn import PyroModule

class Bare(PyroModule):
    def forward(self, n):
        with pyro.plate("rows", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros(64), 1.0).to_event(1))
"""

WRONG_SHAPE = """
import pyro, torch
import pyro.distributions as dist
from pyro.nn import PyroModule

class Ten(PyroModule):
    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(n, 10), 1.0).to_event(1))
"""


@pytest.fixture
def numbers(tmp_path):
    """A file of 40 rows of 5 numbers."""
    generator = np.random.default_rng(0)
    np.save(tmp_path / "numbers.npy", generator.normal(size=(40, 5)).astype(np.float32))
    return "numbers.npy"


def refused(typed, capsys):
    """The one line that a bad command line is answered with."""
    assert main(typed) == 2
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert len(lines) == 1, shown.err
    assert "Traceback" not in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["compare", "vae", "--guides", "nonsense"], "expected a guide among mean_field.*nonsense"),
        (["fit", "vae", "--guide", "meanfield"], "did you mean 'mean_field'"),
        (["fit", "vea"], "did you mean 'vae'"),
        (["fit", "vae", "--epoch", "3"], "Unknown option: --epoch. Did you mean --epochs"),
        (["fit", "vae", "--set", "latent_dims=3"], "did you mean 'latent_dim'"),
        (["gaps", "runs/nothere"], "expected a story or the folder of a run, got 'runs/nothere'"),
        (["fit", "."], "expected a story to train, got the folder"),
        (["compare", "vae", "--seed", "3"], "expected --train.seed or --evidence.seed, got --seed"),
        (["compare", "vae", "--num-particles", "3"], "--train.num-particles or --evidence"),
        (["gaps", "vae", "--rows", "0"], "expected --rows of at least 1, got 0"),
        (["gaps", "vae", "--local-steps", "-1"], "expected local_steps of at least 0, got -1"),
        (["compare", "nonsense"], "expected a story among .*factor_analysis.*'nonsense'"),
        (["compare", "absent.py"], r"expected a story's file, got 'absent\.py'"),
        (["compare", "vae", "--data", "digit"], "expected a data set among.*Did you mean digits"),
        (["compare", "vae", "--data", "absent.npy"], r"absent\.npy"),
        (["compare", "vae", "--set", "depth=3"], "expected options among.*latent_dim.*depth"),
        (["compare", "vae", "--method", "exact"], "to define log_evidence"),
        (["compare", "vae", "--method", "magic"], "an evidence method among auto.*'magic'"),
        (["evidence", "vae", "--method", "magic"], "expected evidence methods among.*'magic'"),
        (["evidence", "vae", "--method", "exact"], "to define log_evidence"),
        (["evidence", "vae", "--method", "quadrature"], "at most 3 latent numbers a row"),
        (["evidence", "vae", "--annealing.temperature-schedule", "magic"], "among auto.*'magic'"),
        (["evidence", "vae", "--error", "magic"], "error among delta, jackknife; got 'magic'"),
        (["compare", "vae", "--decoder", "both"], "both"),
        (["compare", "vae", "--epochs", "many"], "--epochs"),
        (["compare", "vae", "--epochs", "0"], "expected epochs of at least 1, got 0"),
        (["compare"], "--story requires an argument"),
        (["conjure"], "conjure"),
        (["fit", "vae", "--objective", "magic"], "expected an objective among.*'magic'"),
        (["fit", "vae", "--resume"], "expected --run-dir with --resume"),
        (["fit", "vae", "--device", "toaster"], "expected a device such as"),
        (["gaps", "vae", "--weights", "absent"], r"story\.safetensors, got no such file"),
        (["new", "mine", "--from", "nonsense"], "expected a story among"),
        (["generate", "vae", "--out", "x.gif"], r"expected --out to be a \.png or \.npz file"),
        (["generate", "funnel", "--out", "x.png"], r"are no pictures.*give an \.npz file to --out"),
        (["generate", "two_moons", "--out", "x.png"], "no picture 'x', only distance, breadth"),
        (["list", "flowers"], "flowers"),
    ],
)  # fmt: skip
def test_bad_words_are_refused(typed, message, capsys):
    line = refused(typed, capsys)
    assert re.search(message, line), line


def test_pixels_that_are_no_bits_are_refused(tmp_path, capsys):
    np.save(tmp_path / "grey.npy", np.full((30, 16), 0.5, dtype=np.float32))
    line = refused(["compare", "vae", "--data", "grey.npy"], capsys)
    assert "site 'x': expected values in its support" in line and "0.5" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("rows", [None, 0])
def test_an_empty_data_file_is_refused(rows, tmp_path, capsys):
    file = tmp_path / "empty.npy"
    if rows is None:
        file.write_bytes(b"")
    else:
        np.save(file, np.zeros((0, 5), dtype=np.float32))
    assert "empty" in refused(["compare", "vae", "--data", "empty.npy"], capsys)


def test_rows_of_another_shape_are_refused(numbers, tmp_path, capsys):
    (tmp_path / "ten.py").write_text(WRONG_SHAPE)
    line = refused(["compare", "ten.py", "--data", numbers], capsys)
    assert "site 'x': expected rows of shape (10,), got (5,)" in line


def test_a_story_without_a_data_plate_is_refused(tmp_path, capsys):
    (tmp_path / "bare.py").write_text(NO_PLATE)
    for command in ("compare", "check"):
        assert 'expected a plate named "data"' in refused([command, "bare.py"], capsys)


def test_a_story_file_that_does_not_run_is_refused(tmp_path, capsys):
    (tmp_path / "broken.py").write_text("def f(:\n")
    assert "'broken.py' does not run" in refused(["check", "broken.py"], capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_refused_where_there_is_none(capsys):
    for command in ("compare", "fit", "gaps"):
        assert "CUDA" in refused([command, "vae", "--device", "cuda"], capsys)


@pytest.mark.parametrize("command", ["compare", "fit"])
def test_a_run_folder_with_files_is_refused_and_left_alone(command, numbers, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    typed = [command, "factor_analysis", "--data", numbers, "--run-dir", "mine", "--epochs", "1"]
    assert "expected an empty or new run folder" in refused([*typed, "--no-progress"], capsys)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


COUNTS_OF_A_DEPTH = """
import pyro, torch
import pyro.distributions as dist
from pyro.nn import PyroModule

class Counts(PyroModule):
    def forward(self, n, depth):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(WRONG).to_event(1))
"""


def test_data_that_were_not_asked_for_are_named_where_they_do_not_fit(tmp_path, capsys):
    (tmp_path / "counts.py").write_text(COUNTS_OF_A_DEPTH)
    line = refused(["check", "counts.py"], capsys)
    assert "expected the covariates ['depth'] in the data, got keys ['x']" in line
    assert line.endswith("with data digits: the example of counts.py, name your own with --data")


def test_an_error_inside_a_story_says_where(tmp_path, capsys):
    (tmp_path / "counts.py").write_text(COUNTS_OF_A_DEPTH)
    np.savez(tmp_path / "rows.npz", x=np.ones((20, 2)), depth=np.ones(20))
    assert main(["check", "counts.py", "--data", "rows.npz"]) == 1
    err = capsys.readouterr().err
    assert "NameError: name 'WRONG' is not defined in counts.py, line 10 (--debug" in err
