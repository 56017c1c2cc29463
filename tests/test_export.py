r"""The ArviZ hand-off, on whichever generation is installed: names, numbers, NetCDF, and ArviZ's
own tools."""

import warnings

import arviz
import matplotlib.pyplot
import numpy as np
import pytest
import torch
from exact import ScaledPosterior, linear_gaussian, rows_of
from stories import CASES, built

import ppvae
from ppvae import guides
from ppvae.export import GROUPS, to_arviz
from ppvae.story import log_joint

OLD = int(arviz.__version__.partition(".")[0]) < 1
pytestmark = pytest.mark.filterwarnings("ignore")
B, S = 6, 400


@pytest.fixture(scope="module")
def story():
    return linear_gaussian(data_dim=5, latent_dim=2)


@pytest.fixture(scope="module")
def rows(story):
    return {"x": rows_of(story, B)["x"].detach()}


@pytest.fixture(scope="module")
def found(story, rows):
    return to_arviz(story, ScaledPosterior(story, 1.2), rows, num_samples=S)


def groups_of(found):
    return {g.strip("/") for g in (found.groups() if OLD else found.groups)} - {""}


def stacked(variable):
    """`(S, *)`, chains joined."""
    value = torch.from_numpy(np.ascontiguousarray(variable.values))
    return value.flatten(0, 1)


def test_the_container_is_that_of_the_installed_arviz(found):
    kind = type(found).__name__
    assert kind == ("InferenceData" if OLD else "DataTree")
    assert groups_of(found) == set(GROUPS) - {"constant_data"}


def test_dimensions_are_named(found):
    assert found["posterior"]["z"].dims == ("chain", "draw", "row", "z_dim_0")
    assert found["posterior_predictive"]["x"].dims == ("chain", "draw", "row", "x_dim_0")
    assert found["log_likelihood"]["x"].dims == ("chain", "draw", "row")
    assert found["observed_data"]["x"].dims == ("row", "x_dim_0")
    assert dict(found["posterior"].sizes) == {"chain": 4, "draw": 100, "row": B, "z_dim_0": 2}


def test_densities_are_those_of_the_draws(story, rows, found):
    z = stacked(found["posterior"]["z"])
    log_p = stacked(found["sample_stats"]["log_p"])
    torch.testing.assert_close(log_p, log_joint(story, rows, {"z": z}).detach())
    q = story.posterior(rows)
    wide = torch.distributions.MultivariateNormal(q.loc, scale_tril=q.scale_tril * 1.2)
    torch.testing.assert_close(stacked(found["sample_stats"]["log_q"]), wide.log_prob(z).detach())
    likelihood = torch.distributions.Normal(z @ story.loadings.T + story.offset, story.noise_scale)
    torch.testing.assert_close(
        stacked(found["log_likelihood"]["x"]), likelihood.log_prob(rows["x"]).sum(-1).detach()
    )


def test_prior_and_predictive_groups_hold_their_own_moments(story, found):
    prior = stacked(found["prior"]["z"]).flatten()
    assert abs(float(prior.mean())) < 4 / len(prior) ** 0.5
    assert abs(float(prior.var()) - 1) < 4 * (2 / len(prior)) ** 0.5
    seen = stacked(found["prior_predictive"]["x"]).flatten(0, 1)
    exact = story.loadings.square().sum(-1) + story.noise_scale.square()
    assert float(((seen.mean(0) - story.offset).abs() / (exact / len(seen)).sqrt()).max()) < 4
    mean = stacked(found["posterior_predictive"]["x"]).mean(0)
    z = stacked(found["posterior"]["z"])
    loc = (z @ story.loadings.T + story.offset).mean(0)
    assert float(((mean - loc).abs() / (story.noise_scale / S**0.5)).max()) < 4.5


def test_corrected_draws_are_those_of_the_posterior(story, rows):
    wide = ScaledPosterior(story, 1.5)
    found = to_arviz(
        story, wide, rows, num_samples=8000, corrected=True, groups=["posterior", "sample_stats"]
    )
    spread = stacked(found["posterior"]["z"]).var(0) / story.posterior(rows).variance.detach()
    assert float(spread.min()) > 0.85 and float(spread.max()) < 1.15
    z, log_p = stacked(found["posterior"]["z"]), stacked(found["sample_stats"]["log_p"])
    torch.testing.assert_close(log_p, log_joint(story, rows, {"z": z}).detach())


def test_netcdf_comes_back_as_it_was(found, tmp_path):
    path = str(tmp_path / "run.nc")
    found.to_netcdf(path)
    back = arviz.from_netcdf(path)
    assert groups_of(back) == groups_of(found)
    np.testing.assert_array_equal(back["posterior"]["z"].values, found["posterior"]["z"].values)
    assert back["posterior"]["z"].dims == found["posterior"]["z"].dims


def test_summary_reads_every_number(found):
    table = arviz.summary(found, var_names=["z"])
    assert len(table) == B * 2 and "mean" in table.columns


def test_loo_runs_and_its_own_warning_says_that_a_row_alone_knows_its_latents(story, rows):
    exact = to_arviz(story, ScaledPosterior(story), rows, num_samples=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loo = arviz.loo(exact, var_name="x", pointwise=True)
    value = float(loo.elpd_loo if OLD else loo.elpd)
    evidence = float(ppvae.log_evidence(story, rows, method="exact").value.sum())
    assert value > evidence and bool(loo.warning)


def test_plots_run(found):
    matplotlib.use("Agg")
    if OLD:
        arviz.plot_trace(found, var_names=["z"], compact=True)
        arviz.plot_forest(found, var_names=["z"])
        arviz.plot_ppc(found, num_pp_samples=10)
        assert len(matplotlib.pyplot.get_fignums()) == 3
    else:
        few = {"row": [0], "z_dim_0": [0]}
        arviz.plot_trace_dist(found, var_names=["z"], coords=few, backend="matplotlib")
        arviz.plot_forest(found, var_names=["z"], backend="matplotlib")
        arviz.plot_ppc_dist(found, num_samples=10, backend="matplotlib")
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("kind", sorted(CASES))
def test_every_kind_of_site_is_exported(kind, tmp_path):
    story, guide, batch = built(kind, 5)
    found = to_arviz(story, guide, batch, num_samples=8, num_chains=2)
    for name, site in ppvae.story.trace_sites(story, batch).latent.items():
        lead = (2, 4, 5) if site.is_local else (2, 4)
        assert found["posterior"][name].shape == (*lead, *site.row_shape)
        assert found["prior"][name].shape == (*lead, *site.row_shape)
        assert ("row" in found["posterior"][name].dims) == site.is_local
    assert ("constant_data" in groups_of(found)) == (kind == "covariate")
    if kind in ("names", "deep_plates", "global_plate", "covariate"):  # differ in names or groups
        found.to_netcdf(str(tmp_path / "case.nc"))


def test_densities_of_global_sites_stand_apart():
    story, guide, batch = built("global", 5)
    stats = to_arviz(story, guide, batch, num_samples=8, num_chains=2)["sample_stats"]
    assert stats["log_p"].dims == ("chain", "draw", "row")
    assert stats["log_p_global"].dims == stats["log_q_global"].dims == ("chain", "draw")


def test_missing_entries_stay_missing(story, rows):
    x = rows["x"].clone()
    x[0, 1] = torch.nan
    guide = guides.build("mean_field", story, {"x": x}, hidden=(8,))
    found = to_arviz(story, guide, {"x": x}, num_samples=4)
    for group in ("posterior_predictive", "prior_predictive"):
        value = stacked(found[group]["x"])
        assert bool(value[:, 0, 1].isnan().all()) and int(value.isnan().sum()) == 4
    assert np.isfinite(found["log_likelihood"]["x"].values).all()


def test_chunks_leave_no_row_and_no_draw_out(story, rows, monkeypatch):
    monkeypatch.setattr("ppvae.data.chunks.CHUNK_NUMBERS", 256 * 3)
    found = to_arviz(story, ScaledPosterior(story), rows, num_samples=8)
    assert found["posterior"]["z"].shape == (4, 2, B, 2)
    z = stacked(found["posterior"]["z"])
    log_p = stacked(found["sample_stats"]["log_p"])
    torch.testing.assert_close(log_p, log_joint(story, rows, {"z": z}).detach())


def test_bad_requests_are_refused(story, rows):
    guide = ScaledPosterior(story)
    with pytest.raises(ValueError, match=r"expected groups among .* got \['other'\]"):
        to_arviz(story, guide, rows, groups=["other"])
    with pytest.raises(ValueError, match="expected num_chains to divide num_samples"):
        to_arviz(story, guide, rows, num_samples=10, num_chains=4)
    with pytest.raises(ValueError, match="corrected draws"):
        to_arviz(*built("global", 5), num_samples=8, corrected=True)
