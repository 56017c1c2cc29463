r"""Two processes under torchrun train what one trains, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
JOB = Path(__file__).with_name("distributed_job.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PATIENCE = 600  # seconds, on a busy machine
# A floor under the mean of a part, and a step size that follows a part's chains, belong to the
# part.
NOT_LINEAR = {"free_bits", "monte_carlo_em"}
NAMES = ("gradients", "unlike_weights", "baseline", "stream", "curve", "resumed", "errors")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found, by the name of the job."""
    result = tmp_path_factory.mktemp("two") / "result"
    typed = [*TORCHRUN, str(JOB), ",".join(NAMES), str(result)]
    done = subprocess.run(typed, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(f"{result}.{rank}", weights_only=True) for rank in (0, 1)]


def one_process(name: str, *args: Any, **options: Any) -> Any:
    sys.path.insert(0, str(JOB.parent))
    try:
        import distributed_job
    finally:
        sys.path.pop(0)
    return getattr(distributed_job, name)(*args, **options)


def test_gradients_of_the_processes_are_those_of_the_whole_batch(found):
    for name, one in found[0]["gradients"].items():
        assert one["whole"].keys() == one["together"].keys(), name
        if name not in NOT_LINEAR:
            assert one["losses"][0] == pytest.approx(one["losses"][1], rel=1e-12), name
            for parameter, expected in one["whole"].items():
                torch.testing.assert_close(
                    one["together"][parameter], expected, rtol=1e-10, atol=1e-12, msg=name
                )


@pytest.mark.parametrize("name", ["unlike_weights", "baseline", "stream"])
def test_all_processes_end_with_the_same_weights_of_a_finite_training(found, name):
    one, two = found[0][name], found[1][name]
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert bool(one["loss"].isfinite().all()) and one["loss"][1] < one["loss"][0]


def test_the_loss_curve_lies_within_the_spread_of_five_seeds_of_one_process(found):
    curves = [one_process("curve", seed) for seed in range(5)]
    for name in ("loss", "elbo"):
        alone = torch.stack([c[name] for c in curves]).double()
        distance = (found[0]["curve"][name] - alone.mean(0)).abs()
        assert bool((distance < 4 * alone.std(0)).all()), name


def test_two_processes_go_on_bit_for_bit(found):
    for of_rank in found:
        whole, resumed = of_rank["resumed"]["whole"], of_rank["resumed"]["resumed"]
        assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_what_one_process_cannot_do_is_said_by_all(found):
    one, two = found[0]["errors"], found[1]["errors"]
    assert one == two
    alike = "expected the same settings and all rows in every process, got "
    assert one["seed"] == f"{alike}seed 0 in process 0 and 1 in process 1"
    assert one["rows"].startswith(f"{alike}contents of the rows ")
    assert "notes.txt" in one["folder"]
    assert "expected a finite" in one["nonfinite"] and "'x' in rows [15, 16" in one["nonfinite"]


# --- endings ----------------------------------------------------------------------


def wait_for(condition: Any) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def records(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("number", "to", "said"),
    [
        (signal.SIGINT, "all", "KeyboardInterrupt: "),
        (signal.SIGTERM, "all", "SystemExit: 143"),
        (signal.SIGTERM, "last", "SystemExit: 143"),
        (signal.SIGKILL, "last", "ConnectionError: expected all 2 processes to go on"),
    ],
)
def test_processes_end_together_and_one_process_goes_on(tmp_path, number, to, said):
    run, result = tmp_path / "run", tmp_path / "result"
    # A test may run where Ctrl-C is ignored, as background jobs do; its children would be deaf too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        typed = [*TORCHRUN, str(JOB), "endless", str(result)]
        job = subprocess.Popen(typed, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(lambda: len(records(run)) > 2 and list(run.glob("checkpoints/epoch*")))
    last = int(Path(f"{result}.pid1").read_text())
    os.kill(job.pid if to == "all" else last, number)
    job.communicate(timeout=PATIENCE)
    assert job.returncode != 0
    for rank in (0,) if number == signal.SIGKILL else (0, 1):
        assert Path(f"{result}.{rank}").read_text().startswith(said)
    done = len(records(run))
    kept = max(p.name for p in run.glob("checkpoints/epoch*"))
    if number == signal.SIGKILL:  # short epochs share a checkpoint
        assert "epoch_000001" <= kept <= f"epoch_{done:06d}"
        return
    assert kept.startswith(f"epoch_{done:06d}")
    options = {"schedule": "constant", "run_dir": run, "resume": True, "epochs": done + 1}
    on = one_process("trained", *one_process("digits"), **options)
    assert len(on["loss"]) == done + 1 and on["loss"][-1] < on["loss"][0]


BROKEN = """
import os
import torch
class Story(torch.nn.Module):
    def __init__(self):
        super().__init__()
        if os.environ["RANK"] == os.environ["BROKEN"]:
            raise ValueError("expected another machine")
        self.weight = torch.nn.Parameter(torch.ones(()))
    def forward(self, n):
        import pyro, pyro.distributions as dist
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.weight * z.sum(-1, keepdim=True) + torch.zeros(64)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1))
"""


@pytest.mark.parametrize("number", ["0", "1"])
def test_the_command_line_says_what_one_process_cannot_do(tmp_path, number):
    story = tmp_path / "broken.py"
    story.write_text(BROKEN)
    options = ["--data", "digits", "--epochs", "1", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [*TORCHRUN, "-m", "ppvae", "fit", str(story), *options],
        env={**ENVIRONMENT, "BROKEN": number}, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    who = "ppvae" if number == "0" else f"ppvae, process {number}"
    assert f"{who}: expected another machine\n" in done.stderr
