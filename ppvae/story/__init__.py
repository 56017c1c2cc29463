r"""The story contract: a Pyro program that generates rows, conditioned and scored row by row.

Read in this order: `program` (no side effects), `sites` and `supports` (what a story draws), `batch` (its data), `messengers`,
`observe`, `finite` and `score` (conditioning, simulating, scoring), `flat` (latent sites as one real vector), `check` and
`values` (the doctor), `adopt` (plain Pyro pairs).
"""

from ppvae.story.adopt import adopt
from ppvae.story.batch import Batch, as_batch, num_rows_of, split_batch
from ppvae.story.check import check_story
from ppvae.story.finite import Configurations, entries_of
from ppvae.story.flat import Flat
from ppvae.story.messengers import RowLogProb, RowScale, SampleRows, has_missing
from ppvae.story.observe import Observed, observe, scale_rows, simulate, sites_of
from ppvae.story.program import (
    PARTICLES,
    TensorDict,
    apart,
    evaluating,
    local_params,
    measuring,
    one_tensor_of,
    particle_plate,
    run,
    seeded,
)
from ppvae.story.relaxable import LinearBernoulli, LinearOneHot
from ppvae.story.score import LogJoint, log_joint
from ppvae.story.sites import DATA_PLATE, Layout, Site, Sites
from ppvae.story.supports import in_words
from ppvae.story.values import check_data, check_drawn, check_values, partly_missing

__all__ = [
    "DATA_PLATE",
    "PARTICLES",
    "Batch",
    "Configurations",
    "Flat",
    "Layout",
    "LinearBernoulli",
    "LinearOneHot",
    "LogJoint",
    "Observed",
    "RowLogProb",
    "RowScale",
    "SampleRows",
    "Site",
    "Sites",
    "TensorDict",
    "adopt",
    "apart",
    "as_batch",
    "check_data",
    "check_drawn",
    "check_story",
    "check_values",
    "entries_of",
    "evaluating",
    "has_missing",
    "in_words",
    "local_params",
    "log_joint",
    "measuring",
    "num_rows_of",
    "observe",
    "one_tensor_of",
    "particle_plate",
    "partly_missing",
    "run",
    "scale_rows",
    "seeded",
    "simulate",
    "sites_of",
    "split_batch",
]
