r"""The story contract: a Pyro program that generates rows, conditioned and scored row by row.

Read in this order: `program` (no side effects), `sites` and `supports` (what a story draws),
`batch` (its data), `messengers`, `observe`, `finite` and `score` (conditioning, simulating,
scoring), `flat` (latent sites as one real vector), `check` and `values` (the doctor), `adopt`
(plain Pyro pairs).
"""

from ppvae.story.adopt import adopt
from ppvae.story.batch import Batch, as_batch, num_rows_of, split_batch
from ppvae.story.check import check_story
from ppvae.story.conditioning import Observed, observe, scale_rows, simulate, trace_sites
from ppvae.story.density import LogJoint, log_joint
from ppvae.story.enumeration import Configurations, enumerate_support
from ppvae.story.flat import Flat
from ppvae.story.handlers import (
    RowLogProb,
    RowScale,
    SampleRows,
    has_missing,
    known_missing,
)
from ppvae.story.programs import StoryProgram, program_of
from ppvae.story.relaxed import LinearBernoulli, LinearOneHot
from ppvae.story.running import (
    PARTICLES,
    TensorDict,
    eval_mode,
    isolated,
    local_params,
    particle_plate,
    reference_tensor,
    run,
    run_particles,
    seeded,
    seeded_eval,
)
from ppvae.story.sites import DATA_PLATE, Layout, Site, Sites
from ppvae.story.supports import describe_support
from ppvae.story.validation import check_data, check_guide_sites, check_values, partially_observed

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
    "StoryProgram",
    "TensorDict",
    "adopt",
    "as_batch",
    "check_data",
    "check_guide_sites",
    "check_story",
    "check_values",
    "describe_support",
    "enumerate_support",
    "eval_mode",
    "has_missing",
    "isolated",
    "known_missing",
    "local_params",
    "log_joint",
    "num_rows_of",
    "observe",
    "partially_observed",
    "particle_plate",
    "program_of",
    "reference_tensor",
    "run",
    "run_particles",
    "scale_rows",
    "seeded",
    "seeded_eval",
    "simulate",
    "split_batch",
    "trace_sites",
]
