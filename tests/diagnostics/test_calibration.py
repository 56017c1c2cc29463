r"""SBC, coverage and TARP: the right guide passes, each wrong one is caught by those that can
see it."""

import pytest
import torch
from diagnostics.wrong import FromPrior, PriorGuide, wrong_guides
from exact import ScaledPosterior, linear_gaussian, rows_of
from stories import CASES, built

from ppvae import guides as families
from ppvae.diagnostics import coverage, sbc, tarp
from ppvae.diagnostics.uniformity import RankStatistics, rank_among

N = 800
LEAST_P = 0.001  # many p-values are looked at: one in twenty is below 0.05 by right
NAMES = ("right", "wide", "narrow", "shifted", "prior", "uncorrelated")


@pytest.fixture(scope="module")
def story():
    # two strongly correlated causes, so that losing the correlation matters
    made = linear_gaussian(data_dim=6, latent_dim=3)
    with torch.no_grad():
        made.loadings[:, 1] = made.loadings[:, 0] + 0.3 * made.loadings[:, 1]
    return made


def ranks_of(draws, num_draws=19, names=("q",)):
    return RankStatistics(names, draws.reshape(len(names), -1), num_draws)


# --- the test of uniformity -------------------------------------------------


def test_p_values_of_uniform_ranks_are_uniform():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(0, 20, (400, 500), generator=generator)
    p = RankStatistics(tuple(map(str, range(400))), draws, 19).p_values
    for level in (0.05, 0.2, 0.5):
        share, error = float((p < level).double().mean()), (level * (1 - level) / 400) ** 0.5
        assert abs(share - level) < 4 * error


def test_the_band_holds_the_whole_curve_of_uniform_ranks_in_95_percent():
    generator = torch.Generator().manual_seed(1)
    draws = torch.randint(0, 20, (1000, 500), generator=generator)
    ranks = RankStatistics(tuple(map(str, range(1000))), draws, 19)
    low, high = ranks.band()
    inside = ((ranks.ecdf >= low) & (ranks.ecdf <= high)).all(1).double().mean()
    assert abs(float(inside) - 0.95) < 4 * (0.95 * 0.05 / 1000) ** 0.5 + 0.01  # ranks are discrete


def test_shift_and_spread_are_zero_and_one_for_uniform_ranks():
    ranks = ranks_of(torch.arange(20).repeat(50))
    torch.testing.assert_close(ranks.shift.value, torch.zeros(1).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(ranks.spread.value, torch.ones(1).double())


def test_ties_are_broken_evenly():
    torch.manual_seed(0)
    ranks = rank_among(torch.zeros(20_000), torch.zeros(4, 20_000))
    assert torch.bincount(ranks, minlength=5).double().sub(4000).abs().max() < 4 * 57


# --- guides that are wrong in one way ---------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("run", "num_simulations", "missed"),
    [(sbc, N, ()), (coverage, N, ("prior",)), (tarp, 2000, ())],  # the prior covers itself
    ids=["sbc", "coverage", "tarp"],
)
def test_the_right_guide_passes_and_wrong_ones_are_caught(
    story, run, num_simulations, missed, name
):
    found = run(story, wrong_guides(story)[name], num_simulations=num_simulations)
    passes = name in ("right", *missed)
    assert found.verdict == ("pass" if passes else "fail"), str(found.findings[0])


def test_sbc_tells_the_direction(story):
    words = {
        name: sbc(story, guide, num_simulations=N).findings[0].advice
        for name, guide in wrong_guides(story).items()
    }
    assert "too wide" in words["wide"] and "too narrow" in words["narrow"]
    assert "too high" in words["shifted"] and "z[" in words["shifted"]


def test_sbc_of_single_numbers_misses_the_prior_and_lost_correlations(story):
    for name in ("prior", "uncorrelated"):
        found = sbc(story, wrong_guides(story)[name], num_simulations=N, test_quantities={})
        assert found.verdict == "pass"


def test_coverage_has_the_sign_of_the_fault(story):
    excess = {
        name: coverage(story, guide, num_simulations=N).excess
        for name, guide in wrong_guides(story).items()
    }
    assert excess["wide"].value > 4 * excess["wide"].std_error
    for name in ("narrow", "shifted"):
        assert excess[name].value < -4 * excess[name].std_error
    assert abs(excess["right"].value) < 4 * excess["right"].std_error


def test_coverage_of_a_wide_gaussian_is_that_of_the_chi_square_law(story):
    found = coverage(story, ScaledPosterior(story, 1.5), num_simulations=2000)
    chi2 = torch.distributions.Chi2(torch.tensor(3.0).double())
    grid = torch.linspace(0.01, 40, 4000).double()
    inside = torch.distributions.Gamma(chi2.concentration, chi2.rate).cdf(grid)
    level = torch.tensor(0.5).double()
    bound = grid[(inside - level).abs().argmin()]
    exact = torch.distributions.Gamma(chi2.concentration, chi2.rate).cdf(bound * 1.5**2)
    at = int((found.levels - level).abs().argmin())
    error = float((exact * (1 - exact) / 2000).sqrt())
    assert abs(float(found.coverage[at] - exact)) < 4 * error


def test_tarp_with_random_references_misses_the_prior(story):
    guide = PriorGuide(story)
    assert tarp(story, guide, num_simulations=2000, references="random").verdict == "pass"


# --- other stories ----------------------------------------------------------

KINDS = ("positive", "simplex", "unit_interval", "inner_auto", "two_sites", "hierarchical")


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_of_the_prior_among_prior_draws_are_uniform_for_every_support(kind):
    story = CASES[kind].story()
    guide, size = FromPrior(story), {"num_simulations": 300, "num_draws": 19}
    assert sbc(story, guide, test_quantities={}, **size).p_value > LEAST_P
    assert coverage(story, guide, **size).p_value > LEAST_P
    assert tarp(story, guide, references="random", **size).p_value > LEAST_P


@pytest.mark.parametrize("kind", ["covariate", "simplex", "inner_explicit", "several_observed"])
def test_calibration_runs_on_library_guides_with_covariates_plates_and_supports(kind):
    story, guide, batch = built(kind, 30)
    for run in (sbc, coverage, tarp):
        found = run(story, guide, batch, num_simulations=40, num_draws=9)
        assert 0 < found.p_value <= 1


def test_missing_entries_of_the_data_are_missing_in_simulated_rows(story):
    rows = rows_of(story, 50)["x"]
    rows[:, 2] = torch.nan
    guide = families.build("mean_field", story, rows, hidden=(8,))
    seen = []
    found = sbc(
        story, guide, rows, num_simulations=20, num_draws=9,
        test_quantities={"q": lambda z, x: seen.append(x["x"]) or z["z"].sum(-1)},
    )  # fmt: skip
    assert all(bool(x[:, 2].isnan().all()) and not bool(x[:, 0].isnan().any()) for x in seen)
    assert found.sbc_ranks.names[-1] == "q"


def test_a_seed_fixes_the_ranks_and_chunks_do_not_leave_rows_out(story, monkeypatch):
    guide = ScaledPosterior(story)
    first = sbc(story, guide, num_simulations=50, num_draws=9, seed=3).sbc_ranks.ranks
    assert torch.equal(
        first, sbc(story, guide, num_simulations=50, num_draws=9, seed=3).sbc_ranks.ranks
    )
    monkeypatch.setattr("ppvae.data.chunks.MAX_CHUNK_ROWS", 7)
    ranks = sbc(story, guide, num_simulations=N, num_draws=9).sbc_ranks
    assert ranks.p_value > 0.05 and int(ranks.ranks.max()) == 9


# --- errors -----------------------------------------------------------------


def test_calibration_refuses_what_it_cannot_judge(story):
    rows = rows_of(story, 10)
    local = families.build("mean_field", story, rows, hidden=(8,)).local(rows)
    with pytest.raises(ValueError, match="expected an amortized guide"):
        sbc(story, local, rows)
    with pytest.raises(ValueError, match="two simulations"):
        coverage(story, ScaledPosterior(story), num_simulations=1)
    with pytest.raises(ValueError, match="references among row, random"):
        tarp(story, ScaledPosterior(story), references="other")
    with pytest.raises(ValueError, match=r"test quantity 'q': expected a tensor .* got \(1,\)"):
        sbc(story, ScaledPosterior(story), test_quantities={"q": lambda z, x: torch.zeros(1)})
    with pytest.raises(ValueError, match="got NaN"):
        nan = {"q": lambda z, x: z["z"].sum(-1) * torch.nan}
        sbc(story, ScaledPosterior(story), test_quantities=nan)
    with pytest.raises(ValueError, match="named unlike the latent sites"):
        sbc(story, ScaledPosterior(story), test_quantities={"z[0]": lambda z, x: z["z"].sum(-1)})
