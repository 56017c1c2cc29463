r"""The story contract: a Pyro program that generates rows, conditioned and scored row by row.

Read in this order: `program` (no side effects), `sites` (what a story draws), `messengers` and `observe`
(conditioning, simulating, scoring), `flat` (latent sites as one real vector), `check` (the doctor),
`adopt` (plain Pyro pairs).
"""

from ppvae.story.adopt import adopt
from ppvae.story.check import check_data, check_story
from ppvae.story.flat import Flat
from ppvae.story.messengers import RowLogProb, RowScale, SampleRows
from ppvae.story.observe import (
    Batch,
    LogJoint,
    Observed,
    as_batch,
    log_joint,
    num_rows_of,
    observe,
    scale_rows,
    simulate,
    sites_of,
)
from ppvae.story.program import (
    PARTICLES,
    TensorDict,
    local_params,
    one_tensor_of,
    particle_plate,
    seeded,
)
from ppvae.story.sites import DATA_PLATE, Layout, Site, Sites

__all__ = [
    "DATA_PLATE",
    "PARTICLES",
    "Batch",
    "Flat",
    "Layout",
    "LogJoint",
    "Observed",
    "RowLogProb",
    "RowScale",
    "SampleRows",
    "Site",
    "Sites",
    "TensorDict",
    "adopt",
    "as_batch",
    "check_data",
    "check_story",
    "local_params",
    "log_joint",
    "num_rows_of",
    "observe",
    "one_tensor_of",
    "particle_plate",
    "scale_rows",
    "seeded",
    "simulate",
    "sites_of",
]
