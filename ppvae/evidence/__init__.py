r"""How probable are the rows under the story: bounds on log p(x) and estimates of it, in nats per row."""

from ppvae.evidence.bounds import elbo, importance_evidence, iwelbo, log_mean_exp
from ppvae.evidence.estimators import METHODS, annealed_evidence, exact_evidence, log_evidence

__all__ = [
    "METHODS",
    "annealed_evidence",
    "elbo",
    "exact_evidence",
    "importance_evidence",
    "iwelbo",
    "log_evidence",
    "log_mean_exp",
]
