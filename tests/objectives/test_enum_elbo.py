r"""Sums over discrete sites inside the ELBO: against closed forms and against Pyro's own."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.nn import PyroModule
from test_summing import GaussianMixture, LabelledVAE, by_hand
from torch import nn

import ppvae
from ppvae import objectives
from ppvae.story import local_params, observe


class Broadcasting(PyroModule):
    """A mixture of slopes that enumeration dimensions broadcast through."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([-2.0, 0.5, 2.0]).double())
        self.slope = nn.Parameter(torch.tensor([1.0, -1.0, 0.5]).double())

    def forward(self, n):
        with pyro.plate("data", n):
            k = pyro.sample("k", dist.Categorical(logits=self.slope))
            z = pyro.sample("z", dist.Normal(self.loc[k], 1.0))
            pyro.sample("x", dist.Normal(self.slope[k] * z, 0.5))


def test_with_nothing_left_to_draw_it_is_the_log_evidence_with_its_gradient():
    story = GaussianMixture()
    x = ppvae.simulate(story, 30, seed=0)["x"]
    guide = ppvae.guides.build("enumerated", story, x)
    loss = objectives.build("enum_elbo", story, guide, x)({"x": x})
    truth = -by_hand(story, x).logsumexp(0).mean()
    torch.testing.assert_close(loss, truth, rtol=0, atol=1e-12)
    found, expected = (torch.autograd.grad(v, story.loc)[0] for v in (loss, truth))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("num_particles", [1, 3])
def test_it_equals_pyros_on_a_story_that_broadcasts(num_particles):
    story = Broadcasting()
    x = ppvae.simulate(story, 25, seed=0)["x"]
    guide = ppvae.guides.build("mean_field", story, x, hidden=(8,))
    ours = objectives.build("enum_elbo", story, guide, x, num_particles=num_particles)
    theirs = TraceEnum_ELBO(
        num_particles=num_particles, vectorize_particles=num_particles > 1, max_plate_nesting=1
    )
    parameters = [*story.parameters(), *guide.parameters()]
    with local_params(story, guide):
        torch.manual_seed(0)
        loss = ours({"x": x})
        torch.manual_seed(0)
        reference = theirs.differentiable_loss(
            config_enumerate(observe(story)), guide, {"x": x}
        ) / len(x)
    torch.testing.assert_close(loss, reference)
    for a, b in zip(*(torch.autograd.grad(v, parameters) for v in (loss, reference)), strict=True):
        torch.testing.assert_close(a, b)


def test_fit_takes_it_by_itself_and_says_so(capsys):
    story = Broadcasting()
    x = ppvae.simulate(story, 200, seed=0)["x"]
    guide = ppvae.guides.build("mean_field", story, x, hidden=(8,))
    history = ppvae.fit(story, guide, x, epochs=20, lr=0.01, progress=False)
    assert "enum_elbo in place of trace_elbo: k summed over" in capsys.readouterr().err
    assert history.column("elbo")[-1] > history.column("elbo")[0]


def test_training_finds_the_clusters_of_a_mixture():
    truth = GaussianMixture()
    x = ppvae.simulate(truth, 1000, seed=0)["x"]
    story = GaussianMixture()
    with torch.no_grad():
        story.loc.mul_(0.3)
    guide = ppvae.guides.build("enumerated", story, x)
    ppvae.fit(story, guide, x, epochs=40, lr=0.05, progress=False)
    # Standard errors of the means of 200, 500 and 300 rows of unit scale, and some for the overlap.
    assert float((story.loc - truth.loc).abs().max()) < 4 * 1.5 * (1 / 200) ** 0.5


def test_missing_labels_are_summed_over_in_training(capsys):
    story = LabelledVAE()
    rows = ppvae.simulate(story, 60, seed=0)
    y = rows["y"].double()
    y[::2] = torch.nan
    data = {"x": rows["x"], "y": y}
    guide = ppvae.guides.build("mean_field", story, data, hidden=(8,))
    ppvae.fit(story, guide, data, epochs=2, progress=False)
    assert "trace_elbo: y summed over" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"mean_field_elbo.*\['y'\].*enum_elbo"):
        ppvae.fit(story, guide, data, objective="mean_field_elbo", progress=False)


def test_trace_elbo_by_name_of_its_class_is_refused():
    story = Broadcasting()
    x = ppvae.simulate(story, 5, seed=0)["x"]
    guide = ppvae.guides.build("mean_field", story, x, hidden=(8,))
    with pytest.raises(ValueError, match=r"trace_elbo, got the sites \['k'\].*use enum_elbo"):
        objectives.build("trace_elbo", story, guide, x)


class Infinite(PyroModule):
    def forward(self, n):
        with pyro.plate("data", n):
            k = pyro.sample("k", dist.Poisson(2.0))
            z = pyro.sample("z", dist.Normal(k, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0))


class OnlyZ(PyroModule):
    def forward(self, batch):
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("z", dist.Normal(batch["x"], 1.0))


def test_an_infinite_support_is_named():
    with pytest.raises(ValueError, match=r"site 'k'.*infinitely many values.*truncate it"):
        objectives.build("enum_elbo", Infinite(), OnlyZ(), torch.zeros(4))


def test_sites_drawn_without_a_path_are_refused():
    story = Broadcasting()
    x = ppvae.simulate(story, 5, seed=0)["x"]
    guide = ppvae.guides.build("categorical", story, x, hidden=(8,))
    with pytest.raises(ValueError, match=r"enum_elbo.*without rsample.*\['k'\].*score_function"):
        objectives.build("enum_elbo", story, guide, x)
