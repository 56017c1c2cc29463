r"""What is not a number says why: which site, which rows."""

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import ppvae
from ppvae.inference import Annealing


class Broken(PyroModule):
    """A number whose mean is NaN in rows where the covariate is negative."""

    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.tensor(0.0))

    def forward(self, n, fault):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0))
            pyro.sample("x", dist.Normal(z + fault.log() * 0, 1.0))


class Gate(PyroModule):
    """Counts whose rate is zero below z = 0."""

    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.tensor(0.0))

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0))
            pyro.sample("x", dist.Poisson(z.relu()))


class At(nn.Module):
    """A guide that draws z near one place."""

    def __init__(self, place, scale=0.01):
        super().__init__()
        self.place, self.scale = place, scale

    def forward(self, batch):
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("z", dist.Normal(torch.tensor(self.place), self.scale))


METHODS = {
    "elbo": lambda story, guide, rows: ppvae.elbo(story, guide, rows),
    "iwelbo": lambda story, guide, rows: ppvae.iwelbo(story, guide, rows),
    "iwae": lambda story, guide, rows: ppvae.log_evidence(
        story, rows, method="iwae", guide=guide, local_steps=0
    ),
    "ais": lambda story, guide, rows: ppvae.log_evidence(
        story,
        rows,
        method="ais",
        guide=guide,
        local_steps=0,
        annealing=Annealing(num_chains=4, num_temperatures=4),
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_nan_in_a_decoder_is_named_with_its_site_and_rows(method):
    fault = torch.ones(8)
    fault[5:7] = -1.0  # log gives NaN
    rows = {"x": torch.zeros(8), "fault": fault}
    with pytest.raises(ValueError, match=r"got NaN in rows \[5, 6\].*NaN at site 'x'.*decoder"):
        METHODS[method](Broken(), At(0.0, 1.0), rows)


@pytest.mark.parametrize("method", METHODS)
def test_a_guide_that_has_lost_the_support_is_named_with_the_rows(method):
    x, guide = torch.tensor([0.0, 4.0, 0.0, 5.0]), At(-1.0)
    with pytest.raises(
        ValueError, match=r"rows \[1, 3\].*site 'x' has no density.*lost the support"
    ):
        METHODS[method](Gate(), guide, x)


def test_rows_are_numbered_among_all_rows():
    fault = torch.ones(10)
    fault[7] = -1.0
    rows = {"x": torch.zeros(10), "fault": fault}
    for method in ("iwae", "ais"):
        with pytest.raises(ValueError, match=r"rows \[7\]"):
            ppvae.log_evidence(
                Broken(), rows, method=method, guide=At(0.0, 1.0), local_steps=0, rows_per_piece=3,
                annealing=Annealing(num_chains=4, num_temperatures=4),
            )  # fmt: skip


def test_an_infinite_density_is_named():
    class Spike(PyroModule):
        def forward(self, n):
            with pyro.plate("data", n):
                z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
                pyro.sample("x", dist.Gamma(0.5 + 0 * z, 1.0))

    with pytest.raises(ValueError, match=r"infinite one in rows \[1\].*infinite at site 'x'"):
        ppvae.elbo(Spike(), At(0.0, 1.0), torch.tensor([1.0, 0.0]))


def test_a_guide_that_draws_nan_is_named():
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 4)
    guide = ppvae.guides.build("mean_field", story, rows)
    with torch.no_grad():
        guide.to_parameters.bias.fill_(torch.nan)
    with pytest.raises(
        ValueError, match=r"got NaN in rows \[0, 1, 2, 3\].*guide draws NaN at site 'z'"
    ):
        ppvae.elbo(story, guide, rows)


def test_a_closed_form_that_is_not_finite_is_refused():
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 4)
    with torch.no_grad():
        story.offset.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"got NaN in rows \[0, 1, 2, 3\]"):
        ppvae.log_evidence(story, rows, method="exact")


class Shared(PyroModule):
    def forward(self, n):
        g = pyro.sample("g", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(g, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0))


@pytest.mark.parametrize("method", ["iwae", "ais", "quadrature"])
def test_global_latents_are_named(method):
    story, x = Shared(), torch.zeros(5)
    guide = ppvae.guides.build("mean_field", story, x)
    for start in ("guide", "prior"):
        with pytest.raises(ValueError, match=r"inside the plate 'data'.*global sites \['g'\]"):
            ppvae.log_evidence(
                story, x, method=method, guide=guide, annealing=Annealing(start=start)
            )


def test_requests_that_cannot_be_served_are_refused_with_a_way_out():
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 4)
    guide = ppvae.guides.build("mean_field", story, rows)
    local = guide.local(rows)
    adopted, own = ppvae.adopt(_model, _guide)
    prior = {
        "method": "ais",
        "annealing": Annealing(num_chains=2, num_temperatures=2, start="prior"),
    }

    def evidence(**options):
        return ppvae.log_evidence(story, rows, **{"guide": guide, **options})

    for message, call in (
        ("needs a guide", lambda: evidence(guide=None, method="ais")),
        ("precision among auto, float32, float64", lambda: evidence(precision="half")),
        (
            "amortized guide to compute in float64",
            lambda: evidence(guide=local, precision="float64"),
        ),
        ("error among delta, jackknife", lambda: evidence(error="exact")),
        ("num_particles of at least 1", lambda: evidence(num_particles=0)),
        ("parameters for each row", lambda: ppvae.bdmc(story, local)),
        ("generates rows", lambda: ppvae.log_evidence(adopted, torch.zeros(3), **prior)),
        ("generates rows", lambda: ppvae.inference.certify(adopted, own, torch.zeros(3))),
        ("at least one method", lambda: ppvae.inference.evidence_table(story, guide, rows, [])),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert evidence(guide=None, **prior).value.shape == (4,)


def _model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.7))
