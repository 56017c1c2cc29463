r"""How probable are the rows under the story: bounds on log p(x) and estimates of it, in nats per row."""

from ppvae.evidence.bidirectional import Sandwich, bdmc
from ppvae.evidence.bounds import elbo, importance_evidence, iwelbo, log_mean_exp
from ppvae.evidence.estimators import METHODS, Effort, evidence_from, log_evidence
from ppvae.evidence.quadrature import quadrature_evidence

__all__ = [
    "METHODS",
    "Effort",
    "Sandwich",
    "bdmc",
    "elbo",
    "evidence_from",
    "importance_evidence",
    "iwelbo",
    "log_evidence",
    "log_mean_exp",
    "quadrature_evidence",
]
