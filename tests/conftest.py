r"""One thread a test process and its children: the tests are many and small, and run side by side."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def in_a_new_folder(tmp_path, monkeypatch):
    """Run a test in a folder of its own, where commands write their runs."""
    monkeypatch.chdir(tmp_path)
