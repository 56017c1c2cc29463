r"""Run folders: what `fit` and `compare` leave is enough for every later command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ppvae
from ppvae.cli import main

pytestmark = pytest.mark.usefixtures("in_a_new_folder")

GALLERY = Path(__file__).parents[1] / "models"
QUICK = ["--epochs", "1"]
FEW = ["--rows", "4", "--num-particles", "100"]


def answer(capsys, *typed):
    """What a command prints, once it has done its work."""
    assert main([str(word) for word in typed]) == 0, capsys.readouterr().err
    return capsys.readouterr()


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A file of 40 rows of 5 numbers."""
    path = tmp_path_factory.mktemp("data") / "numbers.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def run(numbers, tmp_path_factory):
    """The folder of a run of a story in a file, with options of story and guide."""
    folder = tmp_path_factory.mktemp("run")
    story = folder / "mine.py"
    story.write_text((GALLERY / "factor_analysis.py").read_text())
    guide = "semi_amortized:family=full_rank:num_steps=2:denoising=0.1:weight_norm=1:hidden=[8]"
    typed = ["fit", f"{story}:FactorAnalysis", "--data", str(numbers), "--guide", guide]
    rest = ["--set", "latent_dim=3", "--run-dir", str(folder / "run")]
    assert main([*typed, *rest, *QUICK]) == 0
    return folder / "run"


def test_the_folder_of_a_run_is_enough_from_anywhere(run, capsys):
    shown = answer(capsys, "gaps", run, *FEW)
    assert "over 4 rows" in shown.out and "log p(x) by exact" in shown.out
    assert "training first" not in shown.err
    assert main(["gaps", str(run), *FEW, "--guide", "mean_field"]) == 2
    assert "expected a guide of" in capsys.readouterr().err
    shown = json.loads(answer(capsys, "evidence", run, *FEW, "--method", "exact", "--json").out)
    assert [line["method"] for line in shown] == ["exact"] and "std_error" in shown[0]


def test_a_run_is_opened_in_one_line(run):
    opened = ppvae.open_run(run)
    assert opened.story.zero.shape == (3,) and len(opened.data.test) == 4
    assert isinstance(opened.guide, ppvae.guides.SemiAmortized)
    assert [r["epoch"] for r in opened.history.records] == [1]
    assert opened.config["setup"]["story_options"] == {"latent_dim": 3}
    with torch.no_grad():
        values = [ppvae.elbo(*pair, opened.data.test, seed=0).value for pair in _twice(run)]
    assert torch.equal(*values)


def _twice(run):
    return [(opened.story, opened.guide) for opened in (ppvae.open_run(run), ppvae.open_run(run))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "of format 1, which another version of ppvae wrote"),
        ('{"format": 2}', "which a call from Python wrote"),
    ],
)
def test_a_folder_that_the_command_line_did_not_write_is_refused(content, message, capsys):
    Path("old").mkdir()
    Path("old/config.json").write_text(content)
    for command in ("diagnose", "gaps", "reconstruct", "impute", "traverse"):
        assert main([command, "old"]) == 2
        assert message in capsys.readouterr().err


def test_a_run_that_has_not_ended_is_refused(run, capsys):
    Path("run").mkdir()
    Path("run/config.json").write_text((run / "config.json").read_text())
    for command in ("reconstruct", "impute", "traverse", "gaps"):
        assert main([command, "run"]) == 2
        assert "expected a run that has been trained to its end" in capsys.readouterr().err


def test_a_run_goes_on_where_it_stopped(numbers):
    story = ["fit", "factor_analysis", "--data", str(numbers), "--run-dir", "run", "--no-progress"]
    assert main([*story, "--epochs", "1"]) == 0
    assert main([*story, "--epochs", "3", "--resume"]) == 0
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize(
    ("command", "mark"),
    [(["gaps"], "approximation"), (["evidence", "--method", "iwae"], "iwae")],
)
def test_a_measurement_goes_on_from_its_checkpoint(run, monkeypatch, capsys, command, mark):
    def shown():
        verb, *rest = command
        code = main([verb, str(run), *rest, *FEW, "--checkpoint", "done.safetensors"])
        told = capsys.readouterr()
        return code, [line for line in told.out.splitlines() if mark in line], told.err

    first = shown()
    assert first[0] == 0 and Path("done.safetensors").exists()
    # nothing is to be measured again
    monkeypatch.setitem(ppvae.inference.log_evidence.__globals__, "fit_local", None)
    monkeypatch.setitem(ppvae.gaps.__globals__, "fit_local", None)
    assert shown() == first
    command = [*command, "--seed=1"]
    assert "expected done.safetensors to hold results of these settings" in shown()[2]


def test_compare_writes_table_report_and_weights_that_are_measured_again(numbers, capsys):
    guides = ["mean_field:hidden=[8,8]", "full_rank"]
    typed = [
        "compare",
        "factor_analysis",
        "--data",
        numbers,
        "--guides",
        *guides,
        "--set",
        "latent_dim=1",
    ]
    small = ["--rows", 4, "--evidence.num-particles", 100, "--run-dir", "out", *QUICK]
    out = answer(capsys, *typed, *small).out
    assert "mean_field" in out and "full_rank" in out and "nats per row" in out
    files = {p.relative_to("out").as_posix() for p in Path("out").rglob("*.*")}
    assert {"report.html", "league.csv", "config.json", "figures/gaps.png"} <= files
    lines = Path("out/league.csv").read_text().splitlines()
    assert lines[0].startswith("guide,") and lines[2].startswith("full_rank,")
    answer(capsys, "gaps", "out", "--guide", "full_rank", *FEW)
    opened = ppvae.open_run("out", guides[0])
    assert isinstance(opened.guide, ppvae.guides.MeanField) and len(opened.history.records) == 1
    assert main(["gaps", "out"]) == 2
    assert (
        "name one: --guide mean_field:hidden=[8,8] or --guide full_rank" in capsys.readouterr().err
    )
    assert main(["gaps", "out/weights/full_rank"]) == 2
    assert "give out and --guide full_rank" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_that_are_spread_over_processes_give_the_same_numbers(numbers, capsys):
    answer(capsys, "fit", "factor_analysis", "--data", numbers, "--run-dir", "run", *QUICK)
    typed = ["gaps", "run", *FEW, "--rows-per-piece", 2, "--json"]
    spread = answer(capsys, *typed, "--workers", 2).out
    assert spread == answer(capsys, *typed).out
    assert main(["gaps", "run", "--workers", "2", "--dask", "tcp://nowhere"]) == 2
    assert "expected --workers or --dask, got both" in capsys.readouterr().err
