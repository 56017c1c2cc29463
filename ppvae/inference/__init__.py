r"""How probable are the rows under the story: bounds on log p(x) and estimates of it, in nats per
row; and q*.
"""

from ppvae.config import Annealing, EvidenceConfig
from ppvae.inference.ais import Annealed
from ppvae.inference.bdmc import Sandwich, bdmc, certify, certify_problem
from ppvae.inference.bounds import elbo, estimate_elbo, iwelbo
from ppvae.inference.evidence_table import EvidenceTable, evidence_table
from ppvae.inference.exact import exact_evidence, knows_exact
from ppvae.inference.importance_sampling import importance_evidence, importance_sampling
from ppvae.inference.local_search import LocalFit, fit_local, optimize_local, unamortized
from ppvae.inference.log_evidence import ais, log_evidence
from ppvae.inference.methods import METHODS, check_methods, choose_methods, methods_for
from ppvae.inference.quadrature import quadrature_evidence

__all__ = [
    "METHODS",
    "Annealed",
    "Annealing",
    "EvidenceConfig",
    "EvidenceTable",
    "LocalFit",
    "Sandwich",
    "ais",
    "bdmc",
    "certify",
    "certify_problem",
    "check_methods",
    "choose_methods",
    "elbo",
    "estimate_elbo",
    "evidence_table",
    "exact_evidence",
    "fit_local",
    "importance_evidence",
    "importance_sampling",
    "iwelbo",
    "knows_exact",
    "log_evidence",
    "methods_for",
    "optimize_local",
    "quadrature_evidence",
    "unamortized",
]
