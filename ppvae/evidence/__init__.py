r"""How probable are the rows under the story: bounds on log p(x) and estimates of it, in nats per row."""

from ppvae.evidence.annealed import Annealed
from ppvae.evidence.bidirectional import Sandwich, bdmc, certify
from ppvae.evidence.bounds import elbo, iwelbo
from ppvae.evidence.estimators import ais, log_evidence
from ppvae.evidence.exact import exact_evidence, knows_exact
from ppvae.evidence.faults import is_annealable
from ppvae.evidence.importance import importance_evidence, importance_sampling, log_mean_exp
from ppvae.evidence.methods import METHODS, Effort, check_method, evidence_from
from ppvae.evidence.quadrature import quadrature_evidence
from ppvae.evidence.settings import SCHEDULES, STARTS, Annealing
from ppvae.evidence.table import EvidenceTable, check_methods, evidence_table, methods_for

__all__ = [
    "METHODS",
    "SCHEDULES",
    "STARTS",
    "Annealed",
    "Annealing",
    "Effort",
    "EvidenceTable",
    "Sandwich",
    "ais",
    "bdmc",
    "certify",
    "check_method",
    "check_methods",
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
    "quadrature_evidence",
]
