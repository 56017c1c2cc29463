r"""How probable are the rows under the story: bounds on log p(x) and estimates of it, in nats per row."""

from ppvae.inference.ais import Annealed
from ppvae.inference.annealing import SCHEDULES, STARTS, Annealing
from ppvae.inference.bdmc import Sandwich, bdmc, certify
from ppvae.inference.bounds import elbo, iwelbo
from ppvae.inference.check_finite import draws_discrete, is_annealable
from ppvae.inference.evidence_table import EvidenceTable, check_methods, evidence_table, methods_for
from ppvae.inference.exact import exact_evidence, knows_exact
from ppvae.inference.importance_sampling import (
    importance_evidence,
    importance_sampling,
    log_mean_exp,
)
from ppvae.inference.local_search import LocalFit, optimize_local, unamortized
from ppvae.inference.log_evidence import ais, log_evidence
from ppvae.inference.methods import METHODS, EvidenceConfig, check_method, evidence_from
from ppvae.inference.quadrature import quadrature_evidence

__all__ = [
    "METHODS",
    "SCHEDULES",
    "STARTS",
    "Annealed",
    "Annealing",
    "EvidenceConfig",
    "EvidenceTable",
    "LocalFit",
    "Sandwich",
    "ais",
    "bdmc",
    "certify",
    "check_method",
    "check_methods",
    "draws_discrete",
    "elbo",
    "evidence_from",
    "evidence_table",
    "exact_evidence",
    "importance_evidence",
    "importance_sampling",
    "is_annealable",
    "iwelbo",
    "knows_exact",
    "log_evidence",
    "log_mean_exp",
    "methods_for",
    "optimize_local",
    "quadrature_evidence",
    "unamortized",
]
