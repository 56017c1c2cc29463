r"""Rows on disk, read as they are needed: the same batches and training as from memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streamed import Coins, Grey, N, assert_same, grey, trained

import ppvae
from ppvae.cli import main
from ppvae.config import EvidenceConfig, TrainConfig
from ppvae.data import Rows, as_rows, load, load_request, mapped, open_rows, parse_request, preview
from ppvae.data.mapped import MappedRows
from ppvae.data.splits import PARTS

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "larger_than_memory.py"


def on_disk(path: Path, values: np.ndarray) -> np.memmap:
    np.save(path, values)
    return np.load(path, mmap_mode="r")


def same_batches(one: Any, two: Any, size: int, **options: Any) -> None:
    first, second = (
        list(rows.batches(size, generator=torch.Generator().manual_seed(3), **options))
        for rows in (one, two)
    )
    assert len(first) == len(second) > 1
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k].nan_to_num(-1), b[k].nan_to_num(-1)) for k in a)
        assert all(a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.float32, np.float16, ">i2", bool])
def test_batches_and_splits_from_disk_are_those_from_memory_bit_for_bit(tmp_path, dtype):
    array = on_disk(tmp_path / "a.npy", grey(dtype))
    memory = load(tmp_path / "a.npy", split="all")
    for stream in (open_rows(array), mapped(tmp_path / "a.npy", split="all")):
        assert isinstance(stream, MappedRows) and len(stream) == N and stream.names == ("x",)
        same_batches(memory, stream, 10, shuffle=True)
        same_batches(memory, stream, 10, shuffle=False)
        same_batches(memory.to(dtype=torch.float64), stream.to(dtype=torch.float64), 10)
        assert torch.equal(stream.head(7).tensors["x"], memory.head(7).tensors["x"])
    for split in PARTS:
        stream, memory = (take(tmp_path / "a.npy", split=split) for take in (mapped, load))
        assert torch.equal(as_rows(stream).tensors["x"], memory.tensors["x"])
        assert stream.name == memory.name == "a"


def test_missing_values_several_names_and_redrawn_bits_come_through(tmp_path):
    values = grey(np.float32)
    values[::5, 1] = np.nan
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "t.npy", np.arange(N))
    stream = mapped({"x": tmp_path / "a.npy", "t": tmp_path / "t.npy"})
    whole = Rows({"x": torch.tensor(values), "t": torch.arange(N).float()})
    same_batches(whole.subset(torch.from_numpy(stream.index)), stream, 7, shuffle=True)
    mixed = open_rows({"x": np.load(tmp_path / "a.npy", mmap_mode="r"), "t": np.arange(N)})
    same_batches(whole, mixed, 7, shuffle=True)
    np.save(tmp_path / "p.npy", values / 10)
    memory, stream = (take(tmp_path / "p.npy", binarize="dynamic") for take in (load, mapped))
    same_batches(memory, stream, 10, shuffle=True)
    assert stream.preview.dynamic == {"x"}
    with pytest.raises(ValueError, match="expected binarize dynamic or none .* got 'static'"):
        mapped(tmp_path / "a.npy", binarize="static")


@pytest.mark.parametrize("kind", [np.uint8, np.float64, "dynamic"])
def test_training_from_disk_equals_training_from_memory_bit_for_bit(tmp_path, kind):
    options = {"binarize": "dynamic"} if kind == "dynamic" else {}
    np.save(tmp_path / "a.npy", grey(n=300) / 10 if options else grey(kind))
    took = [
        trained(
            *(take(tmp_path / "a.npy", split=s, **options) for s in ("train", "valid")),
            ema_decay=0.0 if options else 0.9,
        )
        for take in (load, mapped)
    ]
    assert_same(*took)


def test_a_value_far_behind_that_the_story_cannot_have_is_found_when_it_comes(tmp_path):
    values = (grey(n=3000) > 4).astype(np.uint8)
    values[2900] = 7
    array = on_disk(tmp_path / "a.npy", values)
    with pytest.raises(
        ValueError, match="site 'x': expected values in its support .* got 7 in row"
    ):
        trained(array, story=Coins())
    values = grey(np.float32, n=3000)
    for value, message in (
        (np.inf, "at 'x', got infinity"),
        (np.nan, "expected no missing values"),
    ):
        values[2900] = value
        with pytest.raises(ValueError, match=message):
            trained(on_disk(tmp_path / "a.npy", values))


def test_what_is_looked_at_before_training_is_bounded(tmp_path, monkeypatch):
    array = on_disk(tmp_path / "a.npy", grey(np.uint8, n=5000))
    assert len(preview(array)) == 2000 and len(preview(array[:1500])) == 1500
    monkeypatch.setattr("ppvae.data.stream.PREVIEW_NUMBERS", 30)
    assert len(preview(array)) == 10


def test_files_that_cannot_be_read_as_needed_are_refused(tmp_path):
    np.save(tmp_path / "f.npy", np.asfortranarray(grey()))
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "s.npy", np.array(["a"] * 20))
    np.save(tmp_path / "n.npy", np.float64(3))
    np.save(tmp_path / "x.npy", grey())
    np.save(tmp_path / "y.npy", grey(n=9))
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-1])
    np.savez(tmp_path / "z.npz", x=grey())
    for path, message in (
        ("f.npy", "one after the other in .*, got an array in Fortran's order"),
        ("o.npy", r"without pickled objects, in .*o.npy, got: shape \(1,\) of object"),
        ("s.npy", "real numbers at 'x', got dtype <U1"),
        ("n.npy", r"arrays \(N, \*event\) with N ≥ 1 .* got N = {'x': 0}"),
        ("cut.npy", "one array of numbers .* in .*cut.npy, got: 1127 bytes for shape"),
        ("z.npz", "one array of numbers as np.save writes it, .* in .*z.npz, got: "),
        ("none.npy", "in .*none.npy, got: .*No such file"),
        ({"x": "x.npy", "y": "y.npy"}, "N ≥ 1 the same at every name, got N = {'x': 47, 'y': 9}"),
    ):
        paths = path if isinstance(path, dict) else {"x": path}
        with pytest.raises(ValueError, match=message):
            mapped({key: tmp_path / one for key, one in paths.items()})
    with pytest.raises(ValueError, match="batch size of at least 1"):
        next(mapped(tmp_path / "x.npy").batches(0))
    stream = mapped(tmp_path / "x.npy", split="all")
    (tmp_path / "x.npy").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="x.npy, got its end: it was cut short"):
        list(stream.batches(10))


def test_compare_and_a_named_objective_take_what_is_on_disk(tmp_path):
    array = on_disk(tmp_path / "a.npy", grey())
    torch.manual_seed(0)
    story = Grey()
    guide = ppvae.guides.build("mean_field", story, array, hidden=(8,))
    found = ppvae.compare(
        story, {"mean_field": guide}, array, rows=5,
        train=TrainConfig(epochs=1, progress=False), evidence=EvidenceConfig(method="iwae"),
    )  # fmt: skip
    assert len(found.gaps["mean_field"].elbo) == 5
    options = {"baseline": "neural"}
    weights, _ = trained(array, objective="score_function", objective_options=options)
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and sets limits")
def test_training_goes_through_a_file_four_times_larger_than_an_imposed_limit(tmp_path):
    # 512 MB of float64, of which one row in twenty takes disk; 128 MB are left to the process.
    size = ["--megabytes", "512", "--dtype", "float64", "--every", "20", "--hidden", "50"]
    command = [sys.executable, str(BENCHMARK), *size]
    environment = {"PYTHONPATH": str(BENCHMARK.parents[1]), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["limits"] == ["VmSize", "VmData"] and found["file"] == 4 * found["limit"]
    assert "expected an array that fits in memory" in found["whole"]
    assert found["anonymous"] < found["limit"] / 2 and found["peak"] < found["limit"]


def test_a_command_reads_a_file_as_it_is_needed_and_says_what_it_measured(
    in_a_new_folder, capsys, tmp_path
):
    values = (np.random.default_rng(0).random((25_000, 4)) < 0.3).astype(np.uint8)
    np.save(tmp_path / "big.npy", values)
    network = ["--set", "hidden=[4]", "--guide", "mean_field:hidden=[4]"]
    command = ["fit", "vae", "--data", "big.npy:mapped=true", "--epochs", "1", *network]
    assert main([*command, "--batch-size", "5000", "--run-dir", "run"]) == 0
    assert "on 2000 test rows (the first of 2500)" in capsys.readouterr().out
    assert main(["gaps", "run", "--rows", "5", "--method", "iwae"]) == 0
    assert main(["check", "vae", "--data", "big.npy:mapped=true"]) == 0
    assert "20,000 training rows fit it (big, read as needed)" in capsys.readouterr().out
    few = load_request(parse_request("big.npy:mapped=true:rows=40:missing=0.5"), "train")
    assert isinstance(few, Rows) and len(few) == 40 and few.tensors["x"].isnan().any()
    with pytest.raises(ValueError, match="expected no labels, and nothing missing, beside mapped"):
        parse_request("big.npy:mapped=true:missing=0.5")
