r"""Every method against closed forms, and against each other where there is none."""

import exact
import pytest
import torch
from torch import Tensor

import ppvae
from ppvae.inference import evidence_table
from ppvae.stories import load as load_story

ROWS = 10


def within_four_errors(found: ppvae.Estimate, truth: Tensor) -> bool:
    """Whether the mean over rows is right up to the Monte Carlo error, and each row up to five of
    its own.
    """
    error = (found.value - truth).detach()
    noise = float(found.std_error.square().sum().sqrt()) / len(error)
    slack = 1e-6  # of quadrature, whose error is a bound
    each = error.abs() < 5 * found.std_error + slack
    return abs(float(error.mean())) < 4 * noise + slack and bool(each.all())


@pytest.mark.parametrize(
    ("latent_dim", "method"),
    [(d, m) for d in (2, 10, 50) for m in ("iwae", "ais", "adaptive", "resampled")]
    + [(2, "prior"), (10, "prior"), (2, "quadrature")],
)
def test_every_method_agrees_with_the_closed_form_of_factor_analysis(latent_dim, method):
    story = exact.linear_gaussian(latent_dim + 5, latent_dim)
    rows = exact.rows_of(story, ROWS)
    guide = exact.ScaledPosterior(story, 1.1, shift=0.02)
    annealing = {
        "adaptive": ppvae.Annealing(temperature_schedule="adaptive", conditional_ess=0.95),
        "resampled": ppvae.Annealing(temperature_schedule="sigmoid", resample=True),
        "prior": ppvae.Annealing(
            num_chains=20, num_temperatures=15 * latent_dim, num_leapfrog=3, start="prior"
        ),
    }.get(method, ppvae.Annealing(num_temperatures=20))
    found = ppvae.log_evidence(
        story, rows, method=method if method in ("iwae", "quadrature") else "ais", guide=guide,
        num_particles=5000, annealing=annealing, local_steps=0,
    )  # fmt: skip
    assert found.value.dtype == torch.float64
    assert within_four_errors(found, story.log_evidence(rows))


def test_the_search_for_q_star_helps_every_method():
    story = exact.linear_gaussian(15, 10)
    rows = exact.rows_of(story, 5)
    guide = ppvae.guides.build("mean_field", story, rows)
    for method in ("iwae", "ais"):
        annealing = ppvae.Annealing(num_temperatures=10)
        errors = [
            ppvae.log_evidence(
                story, rows, method=method, guide=guide, num_particles=200, annealing=annealing,
                local_steps=steps,
            ).std_error.mean()
            for steps in (0, 200)
        ]  # fmt: skip
        assert errors[1] < errors[0]


@pytest.fixture(scope="module")
def curved():
    """A network of two latent numbers, trained for a moment on digits."""
    rows = ppvae.data.load("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        story = load_story("vae", rows.batch(), latent_dim=2, hidden=(50,))
        guide = ppvae.guides.build("mean_field", story, rows, hidden=(50,))
    ppvae.fit(story, guide, rows, epochs=5, lr=3e-3, progress=False)
    return story, guide, rows.head(ROWS)


def test_quadrature_importance_and_annealing_agree_on_a_nonlinear_story(curved):
    story, guide, rows = curved
    methods = ["quadrature", "iwae", "ais"]
    table = evidence_table(story, guide, rows, methods, num_particles=5000, num_simulated=0)
    grid = table.estimates["quadrature"]
    assert float(grid.std_error.max()) < 1e-3
    for method in ("iwae", "ais"):
        difference = table.estimates[method].value - grid.value
        assert abs(float(difference.mean())) < 0.02
        assert bool((difference.abs() < 5 * table.estimates[method].std_error + 1e-3).all())
    assert table.best in ("iwae", "ais")


def test_bounds_are_ordered_below_the_upper_bound_on_simulated_rows(curved):
    story, guide, _ = curved
    annealing = ppvae.Annealing(num_chains=8, num_temperatures=20)
    sandwich = ppvae.bdmc(story, guide, num_simulated=ROWS, annealing=annealing, local_steps=300)
    rows = {"x": ppvae.simulate(story, ROWS, seed=0)["x"]}
    bounds = [ppvae.elbo(story, guide, rows, num_particles=200)]
    bounds += [ppvae.iwelbo(story, guide, rows, num_particles=k) for k in (10, 100)]
    bounds += [
        ppvae.log_evidence(
            story, rows, method="iwae", guide=guide, num_particles=5000, local_steps=300
        )
    ]
    for low, high in zip(bounds, [*bounds[1:], sandwich.upper], strict=True):
        room = ppvae.Estimate.of_draws(high.value - low.value)
        assert float(room.value) > -4 * float(room.std_error)
    assert float((bounds[3].value - bounds[0].value).mean()) > 0.1


def test_double_precision_is_that_of_a_copy(curved):
    story, guide, rows = curved
    annealing = ppvae.Annealing(num_chains=4, num_temperatures=20)
    options = {"guide": guide, "annealing": annealing, "local_steps": 100}
    found = {
        precision: ppvae.inference.ais(story, rows, precision=precision, **options)
        for precision in ("auto", "float64")
    }
    assert found["float64"].log_evidence.value.dtype == torch.float64
    assert found["auto"].log_evidence.value.dtype == torch.float32
    assert next(story.parameters()).dtype == torch.float32
    difference = found["auto"].log_evidence - found["float64"].log_evidence
    noise = float(difference.std_error.square().sum().sqrt()) / len(difference)
    assert abs(float(difference.value.mean())) < 4 * noise
    assert bool((found["auto"].acceptance > 0.3).all())
    assert bool((found["auto"].ess > 1).all()) and bool((found["auto"].ess <= 4).all())
