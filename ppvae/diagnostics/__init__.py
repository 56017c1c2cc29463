r"""On which rows is the posterior wrong, how wrong, and in which direction: one diagnostic a file.

============================  ====================================  ============================
diagnostic                    sees                                  cannot see
============================  ====================================  ============================
`khat`                        tails of the guide too thin, by row   too wide a guide, lost modes
`by_row`                      the same, nats lost, and direction    a lost mode
`sbc`                         shift and scale of each number        errors that cancel over rows
`coverage`                    regions too small or too large        a guide that ignores the row
`tarp`                        any of these, jointly                 which of them it is
`distance_to_reference`       all of these, on a few rows           other rows
`active_units`,               latent numbers that say nothing       a wrong posterior
`kl_by_site`,
`mutual_information`
`posterior_predictive_check`  a story unlike the data               most errors of the guide
`loo`                         rows that the others do not predict   a lost mode; see k-hat
============================  ====================================  ============================

`diagnose` runs all in one go. Calibration is measured on rows simulated from the story: it
judges the guide as the story's posterior, whatever the data.
"""

from ppvae.diagnostics.active_units import ActiveUnits, active_units
from ppvae.diagnostics.by_row import ByRow, by_row
from ppvae.diagnostics.coverage import Coverage, coverage
from ppvae.diagnostics.diagnose import Diagnosis, diagnose
from ppvae.diagnostics.distance import Distance, distance_to_reference
from ppvae.diagnostics.elbo_decomposition import ELBODecomposition, mutual_information
from ppvae.diagnostics.finding import Finding
from ppvae.diagnostics.kl_by_site import KLBySite, kl_by_site
from ppvae.diagnostics.loo import LeaveOneOut, loo
from ppvae.diagnostics.predictive_checks import (
    PredictiveCheck,
    posterior_predictive_check,
    prior_predictive_check,
)
from ppvae.diagnostics.reference import Reference, reference_posterior
from ppvae.diagnostics.sbc import SBC, sbc
from ppvae.diagnostics.tarp import tarp
from ppvae.inference.khat import (
    effective_sample_size,
    khat,
    khat_threshold,
    smooth_log_weights,
)

__all__ = [
    "SBC",
    "ActiveUnits",
    "ByRow",
    "Coverage",
    "Diagnosis",
    "Distance",
    "ELBODecomposition",
    "Finding",
    "KLBySite",
    "LeaveOneOut",
    "PredictiveCheck",
    "Reference",
    "active_units",
    "by_row",
    "coverage",
    "diagnose",
    "distance_to_reference",
    "effective_sample_size",
    "khat",
    "khat_threshold",
    "kl_by_site",
    "loo",
    "mutual_information",
    "posterior_predictive_check",
    "prior_predictive_check",
    "reference_posterior",
    "sbc",
    "smooth_log_weights",
    "tarp",
]
