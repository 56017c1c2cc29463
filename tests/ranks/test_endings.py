r"""Processes under torchrun end together: by a signal with a checkpoint, by the death of one with a message."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
FIT = ["-m", "ppvae", "fit", "vae", "--data", "digits", "--guide", "mean_field"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
OPTIONS = ["--schedule", "constant"]
BROKEN = """
import os
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

class Story(PyroModule):
    def __init__(self):
        super().__init__()
        if os.environ["RANK"] == os.environ["BROKEN"]:
            raise ValueError("expected another machine")
        self.decoder = torch.nn.Linear(2, 64)

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1))
"""
PATIENCE = 120  # seconds, on a busy machine


def started(run: Path, *options: str) -> subprocess.Popen[str]:
    typed = [sys.executable, *TORCHRUN, *FIT, "--run-dir", str(run), *options]
    # A test may run where Ctrl-C is ignored, as background jobs do; its children would be deaf too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            typed, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)


def records(run: Path) -> list[str]:
    file = run / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def wait_for_epochs(run: Path, number: int) -> None:
    until = time.monotonic() + PATIENCE
    while len(records(run)) < number:
        assert time.monotonic() < until
        time.sleep(0.05)


def checkpoints(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "checkpoints").glob("epoch*"))


def wait_for_checkpoint(run: Path) -> None:
    until = time.monotonic() + PATIENCE
    while not checkpoints(run):
        assert time.monotonic() < until
        time.sleep(0.05)


def children(parent: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True
    )
    return sorted(map(int, found.stdout.split()))


def losses(run: Path, epochs: int) -> list[float]:
    """Loss of each epoch of a run that one process begins, or goes on with."""
    typed = [sys.executable, *FIT, *OPTIONS, "--run-dir", str(run), "--epochs", str(epochs)]
    typed += ["--resume"] if run.exists() else []
    done = subprocess.run(typed, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line)["loss"] for line in records(run)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_together_and_go_on(tmp_path, how):
    run = tmp_path / "run"
    job = started(run, *OPTIONS, "--epochs", "100000", "--checkpoint-every", "1000")
    wait_for_epochs(run, 3)
    wait_for_checkpoint(run)
    os.kill(children(job.pid)[-1] if how == signal.SIGKILL else job.pid, how)
    _, said = job.communicate(timeout=PATIENCE)
    assert job.returncode != 0
    assert f"--resume --run-dir {run}" in said
    if how == signal.SIGKILL:
        assert "expected all 2 processes to go on, got no answer from one" in said
    done = len(records(run))
    kept = checkpoints(run)[-1]
    if how == signal.SIGKILL:  # short epochs share a checkpoint
        assert "epoch_000001" <= kept <= f"epoch_{done:06d}"
    else:
        assert kept.startswith(f"epoch_{done:06d}")
    if how == signal.SIGTERM:
        whole = losses(tmp_path / "whole", done + 1)
        assert losses(run, done + 1) == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("number", ["0", "1"])
def test_bad_input_of_one_process_is_told(tmp_path, number):
    (tmp_path / "broken.py").write_text(BROKEN)
    typed = [
        sys.executable,
        *TORCHRUN,
        "-m",
        "ppvae",
        "fit",
        str(tmp_path / "broken.py"),
        "--data",
        "digits",
    ]
    typed += ["--epochs", "1", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        typed,
        env={**ENVIRONMENT, "BROKEN": number},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    who = "ppvae" if number == "0" else f"ppvae, process {number}"
    assert f"{who}: expected another machine\n" in done.stderr
