r"""Training survives: locks, signals, kills, full disks and losses that are not finite."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from coins import Coins, same, timeless, train
from torch import nn

from ppvae.cli import main
from ppvae.config import TrainConfig
from ppvae.storage.lock import locked
from ppvae.storage.run_folder import RunFolder
from ppvae.training import Callback, Trainer
from ppvae.training.train_step import TrainStep


class KilledError(Exception):
    pass


def stop_at(monkeypatch: pytest.MonkeyPatch, kill: int, action: Any) -> None:
    """Act before the step of that number, counted over the epochs."""
    plain, count = Trainer._run_step, iter(range(10**6))

    def step(self: Trainer, *args: Any) -> float:
        if next(count) == kill:
            action()
        return plain(self, *args)

    monkeypatch.setattr(Trainer, "_run_step", step)


def killed() -> None:
    raise KilledError


@pytest.mark.parametrize("kill", [1, 3, 6, 8, 11])
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(tmp_path, monkeypatch, kill):
    whole = train()
    with monkeypatch.context() as patch:
        stop_at(patch, kill, killed)
        with pytest.raises(KilledError):
            train(tmp_path / "run")
    assert same(whole, train(tmp_path / "run", resume=True))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert timeless([json.loads(line) for line in lines]) == whole[1]


KILL = """
import os, signal, sys
from pathlib import Path
import torch, test_survive as here
torch.set_num_threads(1)
count = iter(range(10**6))
plain = here.Trainer._run_step
def step(self, *args):
    if next(count) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, *args)
here.Trainer._run_step = step
here.train(Path(sys.argv[1]))
"""


def test_a_killed_process_goes_on_bit_for_bit_and_leaves_no_lock(tmp_path):
    root = Path(__file__).resolve().parent
    path = os.pathsep.join([str(root.parent), str(root)])
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(tmp_path / "run")], env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == -signal.SIGKILL
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("epoch*"))
    assert names == ["epoch_000001_batch_000001", "epoch_000001_batch_000002"]
    assert same(train(), train(tmp_path / "run", resume=True))


@pytest.fixture
def listening():
    """The tests may run in a process that was started deaf to Ctrl-C, as background jobs are."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_waits_for_its_step_and_writes_a_checkpoint(tmp_path, monkeypatch, number, error):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        stop_at(patch, 5, lambda: signal.raise_signal(number))
        with pytest.raises(error) as raised:
            train(tmp_path / "run", checkpoint_every=1000)
    assert error is KeyboardInterrupt or raised.value.code == 143
    assert (tmp_path / "run" / "checkpoints" / "epoch_000001_batch_000002").is_dir()
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    assert same(train(), train(tmp_path / "run", resume=True))


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_the_command_line_with_their_codes(tmp_path, monkeypatch, capsys, number, code):
    stop_at(monkeypatch, 2, lambda: signal.raise_signal(number))
    run = str(tmp_path / "run")
    typed = ["fit", "factor_analysis", "--data", "simulated:rows=100", "--batch-size", "20"]
    assert main([*typed, "--run-dir", run]) == code
    assert f"--resume --run-dir {run}" in capsys.readouterr().err


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from ppvae.storage.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"{tmp_path}/run, which process {other.pid} on "):
            train(tmp_path / "run")
    finally:
        other.kill()
        other.wait()
    time.sleep(0.05)
    train(tmp_path / "run", epochs=1)


def test_a_lock_is_lifted_by_an_error(tmp_path):
    with pytest.raises(KilledError), locked(tmp_path):
        killed()
    with locked(tmp_path), pytest.raises(ValueError, match="no other process"), locked(tmp_path):
        pass


def test_a_cut_newest_checkpoint_costs_its_interval_only(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 6, killed)
        with pytest.raises(KilledError):
            train(tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "epoch_000001_batch_000002" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match="falling back to the one before"):
        resumed = train(tmp_path / "run", resume=True)
    assert same(train(), resumed)


def test_a_full_disk_is_an_error_that_leaves_older_checkpoints_whole(tmp_path):
    run, module = RunFolder.create(tmp_path / "run", {}), nn.Linear(300, 300)
    run.checkpoints.save(1, {"story": module}, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size, state in ((10_000, {}), (500_000, {"big": torch.zeros(10**6)})):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(OSError, match="the one before is kept"):
                run.checkpoints.save(2, {"story": module}, state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["epoch_000001"]
    assert run.checkpoints.load({"story": module})["epoch"] == 1


class Slips(Coins):
    """NaN in one step of training."""

    def __init__(self, bad: int) -> None:
        super().__init__()
        self.runs, self.bad = 0, bad

    def forward(self, n: int) -> None:
        self.runs += self.training
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.decoder(z) * (float("nan") if self.runs == self.bad else 1.0)
            fn = dist.Bernoulli(logits=logits, validate_args=False)
            pyro.sample("x", fn.to_event(1))


def test_a_loss_that_is_not_finite_names_the_step_and_leaves_the_parameters() -> None:
    story = Slips(10**6)
    stop: dict[str, Any] = {}

    class Watch(Slips):
        def forward(self, n: int) -> None:
            if self.training and self.runs == self.bad - 1:
                stop.update({k: v.clone() for k, v in self.state_dict().items()})
            super().forward(n)

    story = Watch(12)
    with pytest.raises(ValueError, match=r"finite loss, got NaN or infinity in epoch \d, step \d"):
        train(story=story)
    assert stop and all(torch.equal(stop[k], v) for k, v in story.state_dict().items())


def test_a_step_may_be_skipped_and_is_counted() -> None:
    weights, records = train(story=Slips(12), max_skips=1)
    assert sum(record["skipped"] for record in records) == 1
    assert all(bool(v.isfinite().all()) for v in weights.values())


def test_clipping_bounds_a_step_and_the_norm_before_it_is_told() -> None:
    options = {"optimizer": "sgd", "lr": 1.0, "epochs": 1, "batch_size": 40, "val": None}
    start = train(**{**options, "lr": 1e-30})[0]
    weights, records = train(**options, clip_norm=1e-3)
    moved = sum(float((v - start[k]).square().sum()) for k, v in weights.items()) ** 0.5
    assert moved == pytest.approx(1e-3, rel=0.01)
    assert records[0]["gradient_norm"] > 1e-2


class Slope(nn.Module):
    """A loss whose gradient is as long as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.slope = nn.Parameter(torch.zeros(())), 0.0

    def forward(self, batch: Any, kl_weight: float) -> torch.Tensor:
        return self.slope * self.weight


@pytest.mark.parametrize(
    ("times", "options", "expected"),
    [
        (9.0, {}, 9.0),
        (11.0, {}, 10.0),
        (1e6, {}, 10.0),
        (1e6, {"clip_factor": 3.0}, 3.0),
        (1e6, {"clip_norm": 14.0}, 7.0),
        (1e6, {"clip_factor": None}, 1e6),
        (0.0, {}, 0.0),
    ],
)
def test_a_gradient_is_at_most_ten_times_as_long_as_usual(times, options, expected) -> None:
    loss: Any = Slope()
    train_step = TrainStep(loss, TrainConfig(optimizer="sgd", lr=1.0, **options))
    for loss.slope, moved in ((0.0, 0.0), (2.0, 2.0), (2.0, 2.0), (2 * times, 2 * expected)):
        before = loss.weight.item()
        norm = train_step.gradient({"x": torch.zeros(2)}, 1.0)[1]
        train_step.update()
        assert before - loss.weight.item() == pytest.approx(moved) and norm == loss.slope
    usual = train_step.mean_norm
    assert usual == pytest.approx(0.9 * 2 + 0.1 * 2 * expected)
    loss.slope = math.inf
    train_step.gradient({"x": torch.zeros(2)}, 1.0)
    assert train_step.mean_norm == usual


def test_the_heavy_tails_of_a_funnel_train_to_the_end(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "funnel", "--run-dir", "run", "--no-progress"]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert all(math.isfinite(record["loss"]) for record in records)
    assert 0 < sum(record["num_clipped"] for record in records) < 80  # of 800 steps


def test_hooks_are_called_in_order_and_a_function_hears_of_epochs() -> None:
    heard: list[Any] = []

    class Hears(Callback):
        def on_step_end(self, epoch: int, step: int, loss: float) -> None:
            heard.append((epoch, step))

        def on_train_end(self, history: Any) -> None:
            heard.append(len(history.records))

    train(epochs=2, batch_size=20, callbacks=[Hears(), lambda record: heard.append("epoch")])
    assert heard == [(1, 1), (1, 2), "epoch", (2, 1), (2, 2), "epoch", 2]
    with pytest.raises(ValueError, match="expected callbacks .* got int"):
        train(callbacks=[3])
