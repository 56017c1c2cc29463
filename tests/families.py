r"""Which family of guides takes which of the test stories, and pairs of the two."""

from stories import CASES

from ppvae.guides import FAMILIES

ONE_NUMBER = {"log_normal", "heavy_tail", "unit_interval", "scalar", "global", "global_plate"}
ONE_NUMBER |= {"covariate"}
NEEDS_TWO = {"iaf", "realnvp", "sylvester"}
SEVERAL_SITES = {"two_sites", "inner_auto", "inner_explicit", "deep_plates", "hierarchical"}
SEVERAL_SITES |= {"chain", "names"}
NEEDS_SEVERAL_SITES = {"structured", "ladder", "bidirectional"}
# Guides of discrete sites have tests of their own: test_discrete.py and test_vector_quantized.py.
DISCRETE = {"enumerated", "categorical", "concrete", "vector_quantized"}
# Splines have kinks and planar steps sharp bends, on which the rule of the integral test converges
# slowly: family -> nodes of the grid in each dimension, and what is tolerated. The density of
# auxiliary is itself a sum over few nodes, and its reverse model is not trained here.
GRID = {"nsf": (301, 1e-3), "planar": (201, 2e-3), "auxiliary": (41, 2e-2)}
# Families whose draws are scored by more than their density: test_auxiliary.py.
ESTIMATED = {"auxiliary"}
CONTINUOUS = [family for family in FAMILIES if family not in DISCRETE]
# Stories that ask most of a family: one site hanging on another, rows left of a plate, bounds that
# are tensors, a simplex; and in their place where a family wants several sites.
TELLING = ("chain", "inner_explicit", "bounded", "simplex")
TELLING_OF_SEVERAL_SITES = ("chain", "inner_explicit", "deep_plates", "names")


def suits(case: str, family: str) -> bool:
    """Whether a family of continuous sites takes a story."""
    if family in NEEDS_SEVERAL_SITES:
        return case in SEVERAL_SITES
    return not (case in ONE_NUMBER and family in NEEDS_TWO)


def pairs(*cases: str) -> list[tuple[str, str]]:
    """Every pair of a story and a family that takes it."""
    return [(case, family) for case in cases for family in CONTINUOUS if suits(case, family)]


def covering_pairs() -> list[tuple[str, str]]:
    """Every family on four telling stories, and every story under two families."""
    found = []
    for family in CONTINUOUS:
        several = family in NEEDS_SEVERAL_SITES
        found += [(case, family) for case in (TELLING_OF_SEVERAL_SITES if several else TELLING)]
    for case in CASES:
        found += [(case, "mean_field"), (case, "nsf" if case in ONE_NUMBER else "iaf")]
    return list(dict.fromkeys(found))
