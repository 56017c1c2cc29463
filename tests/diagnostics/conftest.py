r"""Reference chains that several files ask, sampled once."""

import pytest
import torch
from diagnostics.wrong import OneMode, TwoModes
from exact import linear_gaussian, rows_of

from ppvae.diagnostics import reference_posterior


@pytest.fixture(scope="session")
def reference():
    """Of rows 1, 4 and 7 of ten of the linear-Gaussian story, from the prior."""
    story = linear_gaussian()
    size = {"num_warmup": 150, "num_samples": 300}
    return reference_posterior(story, rows_of(story, 10), rows=[1, 4, 7], **size)


@pytest.fixture(scope="session")
def two_modes_reference():
    """Of three rows with two modes each, half of the chains from a guide that lost one."""
    rows = {"x": torch.tensor([[5.0], [6.0], [8.0]]).double()}
    size = {"num_warmup": 80, "num_samples": 100}
    return reference_posterior(TwoModes(), rows, guide=OneMode(), **size)
