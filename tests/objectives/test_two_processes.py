r"""Objectives are ordinary modules: torch's own data parallelism averages their gradients."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ppvae.objectives import OBJECTIVES

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("two_processes.py")


def test_two_processes_average_the_gradients_of_their_halves_with_every_objective(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ran = subprocess.run(
        [*command, str(WORKER), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name in OBJECTIVES:
        together, isolated = ranks[0][name]
        assert bool(together.any()) and torch.equal(together, ranks[1][name][0]), name
        torch.testing.assert_close(together, isolated, rtol=1e-4, atol=1e-5, msg=name)
