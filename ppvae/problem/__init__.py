r"""A story, a guide and rows, checked and traced once, as plain functions of tensors.

Reading order: `draws` (what a guide draws, and along which paths gradients come back),
`guide_density`, `scores`, `kl_weights`, `unconstrained`, `problem` (all of them for one pair and
its rows).
"""

__all__ = [
    "GuideSite",
    "KLWeights",
    "Problem",
    "Scores",
    "Unconstrained",
    "missing_as",
    "missing_rows",
]

from ppvae.problem.draws import GuideSite
from ppvae.problem.kl_weights import KLWeights
from ppvae.problem.missing import missing_as, missing_rows
from ppvae.problem.problem import Problem
from ppvae.problem.scores import Scores
from ppvae.problem.unconstrained import Unconstrained
