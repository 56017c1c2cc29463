r"""Fifty `kill -9` at random moments of a training and of a comparison: each can go on, and ends as
if left alone.
"""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from coins import STEPS, train

from ppvae.storage.checkpoints import Checkpoints

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
MEMORY = Path("/dev/shm")  # where writing is quick
FILES = {"fit": 3, "compare": 14}  # that are held against those of the run left alone
ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.skipif(sys.platform != "linux", reason="forks and kills, as Linux does")
@pytest.mark.parametrize("verb", ["fit", "compare"])
def test_fifty_kills_cost_a_step_or_a_piece_each_and_change_no_result(verb, tmp_path):
    place = MEMORY if os.access(MEMORY, os.W_OK) else tmp_path
    typed = [sys.executable, ROOT / "benchmarks" / "kills.py", verb, "50", "0", place]
    env = {**os.environ, **ALONE, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        list(map(str, typed)), env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kills"] == 50 and told["runs"] > 5 and told["files"] == FILES[verb]
    assert told["steps_lost"] <= 1 and told["rows_lost"] <= 2


def test_a_kill_costs_no_more_steps_than_the_interval_holds(tmp_path, monkeypatch):
    clock = SimpleNamespace(monotonic=iter(range(10**6)).__next__)  # a second goes by at each look
    monkeypatch.setattr("ppvae.training.checkpointing.time", clock)
    written = []
    plain = Checkpoints.save

    def save(self, epoch, modules, state, batches=0):
        written.append(STEPS * epoch + batches)
        return plain(self, epoch, modules, state, batches)

    monkeypatch.setattr(Checkpoints, "save", save)
    train(tmp_path / "run", checkpoint_every=2, epochs=2)
    assert written[-1] == 2 * STEPS and STEPS in written
    assert max(after - before for before, after in pairwise([0, *written])) <= 2
