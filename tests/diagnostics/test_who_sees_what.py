r"""Which diagnostic catches which fault of a guide, and which it cannot see: the table of
`docs/reading_diagnostics.md`.

On the linear-Gaussian story, whose posterior is known, with guides that are wrong in one way; and
on a story of two modes with a guide that lost one.
"""

from collections.abc import Callable

import pytest
import torch
from diagnostics.wrong import OneMode, PriorGuide, TwoModes
from exact import ScaledPosterior, linear_gaussian, rows_of
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

import ppvae
from ppvae.diagnostics import (
    active_units,
    by_row,
    coverage,
    distance_to_reference,
    mutual_information,
    posterior_predictive_check,
    prior_predictive_check,
    sbc,
    tarp,
)

RUN: dict[str, Callable] = {
    "k-hat": lambda story, guide, rows: by_row(story, guide, rows, num_particles=500),
    "SBC": lambda story, guide, rows: sbc(story, guide, rows, num_simulations=800),
    "coverage": lambda story, guide, rows: coverage(story, guide, rows, num_simulations=800),
    "TARP": lambda story, guide, rows: tarp(story, guide, rows, num_simulations=2000),
    "active units": active_units,
    "information": mutual_information,
    "posterior predictive": posterior_predictive_check,
    "prior predictive": lambda story, guide, rows: prior_predictive_check(story, rows),
}
CATCHES = {
    "k-hat": ("narrow", "shifted", "prior"),
    "SBC": ("wide", "narrow", "shifted", "prior", "lost mode"),
    "coverage": ("wide", "narrow", "shifted", "lost mode"),
    "TARP": ("wide", "narrow", "shifted", "prior", "lost mode"),
    "reference": ("wide", "narrow", "shifted", "prior", "lost mode"),
    "active units": ("prior",),
    "information": ("prior",),
    "posterior predictive": ("shifted",),
}
# Why each of these is invisible to its diagnostic.
MISSES = {
    ("k-hat", "wide"): "weights are bounded where the guide's tails are the longer ones",
    ("k-hat", "lost mode"): "no particle lands in the mode, so no weight tells of it",
    ("coverage", "prior"): "the prior covers the truth as often as it says, row or no row",
    ("posterior predictive", "wide"): "statistics over all rows hardly feel the width of each",
    ("posterior predictive", "prior"): "draws of the prior generate rows like the data",
    ("active units", "wide"): "the means move as they should",
    ("active units", "narrow"): "the means move as they should",
    ("active units", "shifted"): "the means move as they should",
    ("active units", "lost mode"): "the mean of one mode moves with the row too",
    ("information", "wide"): "the code still tells rows apart",
    ("information", "narrow"): "the code tells rows apart even better",
    ("information", "shifted"): "the code still tells rows apart",
    ("information", "lost mode"): "the code tells rows apart without the other mode",
    ("prior predictive", "narrow"): "the guide has no part in it",
}


@pytest.fixture(scope="module")
def gaussian():
    story = linear_gaussian()
    return story, rows_of(story, 300)


def case(fault, gaussian):
    """Story, guide and rows."""
    if fault == "lost mode":
        # rows whose two modes lie apart; nearer to 0 they are one
        return TwoModes(), OneMode(), {"x": torch.linspace(4, 9, 60).double()[:, None]}
    story, rows = gaussian
    guides = {
        "right": ScaledPosterior(story), "wide": ScaledPosterior(story, 1.5),
        "narrow": ScaledPosterior(story, 0.45), "shifted": ScaledPosterior(story, 1.0, 0.25),
        "prior": PriorGuide(story),
    }  # fmt: skip
    return story, guides[fault], rows


def verdict(diagnostic, fault, gaussian, request):
    story, guide, rows = case(fault, gaussian)
    if diagnostic != "reference":
        return RUN[diagnostic](story, guide, rows).verdict
    chains = "two_modes_reference" if fault == "lost mode" else "reference"
    quick = QuadraticDiscriminantAnalysis()
    return distance_to_reference(guide, request.getfixturevalue(chains), classifier=quick).verdict


@pytest.mark.parametrize("diagnostic", sorted({*RUN, "reference"}))
def test_the_right_guide_passes(diagnostic, gaussian, request):
    assert verdict(diagnostic, "right", gaussian, request) == "pass"


@pytest.mark.parametrize(
    ("diagnostic", "fault"), [(name, fault) for name, faults in CATCHES.items() for fault in faults]
)
def test_the_fault_is_caught(diagnostic, fault, gaussian, request):
    assert verdict(diagnostic, fault, gaussian, request) == "fail"


@pytest.mark.parametrize(
    ("diagnostic", "fault"), list(MISSES), ids=lambda word: word.replace(" ", "-")
)
def test_the_fault_is_missed_for_a_reason(diagnostic, fault, gaussian, request):
    assert verdict(diagnostic, fault, gaussian, request) != "fail", MISSES[diagnostic, fault]


def test_no_fault_is_missed_by_all_of_them():
    for fault in ("wide", "narrow", "shifted", "prior", "lost mode"):
        assert sum(fault in faults for faults in CATCHES.values()) >= 3


def test_a_narrow_wide_and_shifted_guide_lose_the_nats_that_theory_says(gaussian):
    story, rows = gaussian
    rows = {"x": rows["x"][:80]}
    precision = story.posterior_precision().detach()
    d = len(precision)
    for scale, shift in ((1.5, 0.0), (0.8, 0.0), (1.0, 0.25)):
        lost = by_row(story, ScaledPosterior(story, scale, shift), rows, num_particles=4000).gap
        moved = torch.full((d,), shift).double()
        s = torch.tensor(scale).double()
        exact = 0.5 * d * (s**2 - 1 - 2 * s.log()) + 0.5 * moved @ precision @ moved
        error = float(lost.std_error.square().sum().sqrt() / len(lost))
        # log p(x) of few particles is a lower bound, of so many hardly below it
        assert abs(float(lost.value.mean() - exact)) < 4 * error + 0.01


def test_the_direction_row_by_row_is_that_of_the_fault(gaussian):
    story, rows = gaussian[0], {"x": gaussian[1]["x"][:80]}
    for scale in (0.8, 1.3):
        found = by_row(story, ScaledPosterior(story, scale), rows, num_particles=2000)
        assert abs(float(found.scale.median()) / scale - 1) < 0.03
    sd = story.posterior(rows).variance.sqrt().detach()
    found = by_row(story, ScaledPosterior(story, 1.0, 0.25), rows, num_particles=2000)
    expected = (0.25 / sd).square().mean(-1).sqrt()
    assert abs(float((found.shift / expected).median()) - 1) < 0.05


def test_the_lost_mode_is_missing_from_the_simulated_rows_ranks():
    story, guide, _ = case("lost mode", None)
    found = sbc(story, guide, {"x": ppvae.simulate(story, 50, seed=0)["x"]}, num_simulations=500)
    assert found.verdict == "fail" and "too" in found.findings[0].advice
