r"""One thread a test process and its children: the tests are many and small, and run side by
side."""

import os
from importlib import import_module

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyro
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def in_a_new_folder(tmp_path, monkeypatch):
    """Run a test in a folder of its own, where commands write their runs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def short_search(monkeypatch):
    """Let searches for q* end after a few steps, where a test asks nothing of their answers."""
    gaps = import_module("ppvae.gaps")
    plain = gaps.fit_local
    monkeypatch.setattr(gaps, "fit_local", lambda rows, _, seed: plain(rows, 5, seed))


@pytest.fixture
def empty_store():
    """An empty parameter store of Pyro's before and after: other tests may have used it."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
