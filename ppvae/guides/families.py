r"""The table of families: a family is known by its row here."""

__all__ = ["PLAIN"]

from ppvae.guides.amortized import Guide
from ppvae.guides.auxiliary import Auxiliary
from ppvae.guides.bidirectional import Bidirectional
from ppvae.guides.categorical import Categorical
from ppvae.guides.concrete import Concrete
from ppvae.guides.enumerated import Enumerated
from ppvae.guides.full_rank import FullRank
from ppvae.guides.householder import Householder
from ppvae.guides.iaf import IAF
from ppvae.guides.ladder import Ladder
from ppvae.guides.low_rank import LowRank
from ppvae.guides.mean_field import MeanField
from ppvae.guides.mixture import Mixture
from ppvae.guides.nsf import NSF
from ppvae.guides.planar import Planar
from ppvae.guides.realnvp import RealNVP
from ppvae.guides.structured import Structured
from ppvae.guides.sylvester import Sylvester
from ppvae.guides.vector_quantized import VectorQuantized

# Families that take a story by themselves; `semi_amortized` is put around one of them.
PLAIN: dict[str, type[Guide]] = {
    "mean_field": MeanField,
    "full_rank": FullRank,
    "low_rank": LowRank,
    "householder": Householder,
    "iaf": IAF,
    "realnvp": RealNVP,
    "nsf": NSF,
    "planar": Planar,
    "sylvester": Sylvester,
    "mixture": Mixture,
    "auxiliary": Auxiliary,
    "structured": Structured,
    "ladder": Ladder,
    "bidirectional": Bidirectional,
    "enumerated": Enumerated,
    "categorical": Categorical,
    "concrete": Concrete,
    "vector_quantized": VectorQuantized,
}
