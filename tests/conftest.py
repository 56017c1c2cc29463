r"""One thread a test process: the tests are many and small, and run side by side."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def in_a_new_folder(tmp_path, monkeypatch):
    """Run a test in a folder of its own, where commands write their runs."""
    monkeypatch.chdir(tmp_path)
