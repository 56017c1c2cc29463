r"""Traps in the packages underneath (DESIGN, section 9): each test shows the trap, and that ours
steps over it.

When one fails after an upgrade, the trap is gone and so may be the code that avoids it.
"""

import math
import sys
from importlib import import_module

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian, rows_of
from pyro.distributions import Delta, Normal
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.nn import PyroModule
from stories import CASES
from stories import rows_of as rows_of_case
from torch import nn
from torch.distributions import Distribution, kl_divergence

import ppvae
from ppvae import guides, inference
from ppvae.guides.site_sampler import PointMass
from ppvae.problem import Problem
from ppvae.story import local_params, observe, scale_rows


class One(PyroModule):
    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0))


class Prior(PyroModule):
    def forward(self, batch):
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))


def test_trap_1_renyi_is_no_bound_when_rows_are_scaled_and_iwelbo_is():
    torch.manual_seed(0)
    story, guide, num_rows = One(), Prior(), 100
    x = torch.tensor([2.0]).double()
    evidence = float(dist.Normal(0.0, math.sqrt(2.0)).log_prob(x))
    scaled = scale_rows(observe(story), num_rows), scale_rows(guide, num_rows)
    renyi = RenyiELBO(alpha=0, num_particles=50, vectorize_particles=True, max_plate_nesting=1)
    with local_params(story, guide):
        theirs = [-renyi.loss(*scaled, {"x": x}) / num_rows for _ in range(20)]
    assert sum(theirs) / len(theirs) > evidence + 0.5  # far above log p(x): no bound
    ours = ppvae.iwelbo(story, guide, x, num_particles=50, num_repeats=100)
    assert float(ours.value) < evidence + 4 * float(ours.std_error)


def test_trap_1_renyi_and_tracegraph_fail_as_modules():
    x = {"x": torch.zeros(2).double()}
    for elbo in (RenyiELBO(), pyro.infer.TraceGraph_ELBO()):
        with pytest.raises((AttributeError, NotImplementedError)):
            elbo(observe(One()), Prior())(x)


def test_trap_3_trace_elbo_does_not_stick_the_landing_and_the_local_search_does():
    story = linear_gaussian()
    batch = rows_of(story, 6)
    guide = guides.build("full_rank", story, batch)
    local = guide.local(batch)
    exact = story.posterior(batch)
    with torch.no_grad():
        local.rows["loc"].copy_(exact.loc)
        scale = exact.scale_tril.expand(6, 3, 3)
        diagonal = scale.diagonal(dim1=-2, dim2=-1)
        local.rows["raw_diagonal"].copy_((diagonal - 1e-6).expm1().log() - math.log(math.e - 1))
        rows, columns = torch.tril_indices(3, 3, -1)
        local.rows["lower"].copy_(scale[..., rows, columns])
    torch.manual_seed(0)
    with local_params(story, local):
        Trace_ELBO().differentiable_loss(observe(story), local, batch).backward()
    theirs = local.rows["loc"].grad.abs().max()
    assert float(theirs) > 0.1  # noise at the exact posterior
    found = inference.optimize_local(story, local)
    assert found.converged and float(found.gain.abs().max()) < 1e-3
    assert (
        float((local.rows["loc"] - exact.loc).detach().abs().max()) < 1e-3
    )  # the search comes back to it


def test_trap_4_pyro_optim_keeps_one_optimiser_a_tensor(empty_store):
    story = CASES["hierarchical"].story()
    batch = rows_of_case(CASES["hierarchical"], story)
    guide = guides.build("mean_field", story, batch)
    svi = SVI(observe(story), guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(batch)
    trained = [p for m in (story, guide) for k, p in m.named_parameters() if "noise" not in k]
    assert len(svi.optim.optim_objs) == len(trained) > 6


class Netted(PyroModule):
    def __init__(self, name=""):
        super().__init__(name=name)
        self.net = nn.Linear(1, 1)


class NettedStory(Netted):
    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1))


class NettedGuide(Netted):
    def forward(self, batch):
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("z", dist.Normal(self.net(batch["x"]), 1.0).to_event(1))


@pytest.mark.filterwarnings("ignore")
def test_trap_4_two_modules_with_a_net_lose_one_of_them_and_ours_have_names(empty_store):
    x = {"x": torch.randn(8, 1, generator=torch.Generator().manual_seed(0))}

    def moved(story, guide):
        pyro.clear_param_store()
        before = [story.net.weight.clone(), guide.net.weight.clone()]
        SVI(observe(story), guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
        after = [story.net.weight, guide.net.weight]
        return [not torch.equal(a, b) for a, b in zip(after, before, strict=True)]

    assert sum(moved(NettedStory(), NettedGuide())) == 1  # silently
    assert moved(NettedStory(), NettedGuide(name="guide")) == [True, True]
    story = NettedStory()
    ours = guides.build("mean_field", story, x)
    pyro.clear_param_store()
    SVI(observe(story), ours, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    names = set(pyro.get_param_store().keys())
    of_guide = {name for name in names if name.startswith("guide.")}
    assert len(of_guide) == len(list(ours.parameters())) and len(names - of_guide) == 2


def test_trap_5_zuko_switches_validation_off_and_ppvae_puts_it_back(monkeypatch):
    assert Distribution._validate_args  # ppvae.guides has imported zuko
    monkeypatch.setattr(Distribution, "_validate_args", True)
    for name in [name for name in sys.modules if name.split(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    import_module("zuko")
    assert not Distribution._validate_args


def test_trap_5_our_flows_have_what_predictive_asks_for():
    story = CASES["two_sites"].story()
    q = guides.build("iaf", story, rows_of_case(CASES["two_sites"], story)).posterior(
        rows_of_case(CASES["two_sites"], story)
    )
    assert q.support.event_dim == 1 and q.sample().shape == (12, 3) and q.has_rsample


def test_trap_7_a_guide_that_lost_a_mode_looks_perfect_to_khat():
    class Bimodal(PyroModule):
        def forward(self, n):
            with pyro.plate("data", n):
                z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 3.0))
                pyro.sample("x", dist.Normal(z.square(), 1.0))

    class OneMode(PyroModule):
        def forward(self, batch):
            with pyro.plate("data", len(batch["x"])):
                pyro.sample("z", dist.Normal(batch["x"].sqrt(), 0.5 / batch["x"].sqrt()))

    x = torch.tensor([16.0]).double()
    log_w = ppvae.log_weights(Bimodal(), OneMode(), x, 2000, seed=0)
    assert float(ppvae.diagnostics.khat(log_w)) < 0.5
    grid = torch.linspace(-8, 8, 20_001).double()
    log_p = dist.Normal(0.0, 3.0).log_prob(grid) + dist.Normal(grid**2, 1.0).log_prob(x)
    evidence = float(log_p.logsumexp(0) + math.log(16 / 20_000))
    lost = evidence - float(log_w.logsumexp(0) - math.log(2000))
    assert lost == pytest.approx(math.log(2), abs=0.05)


def test_trap_11_pyros_kl_of_a_delta_forgets_its_density_and_our_point_mass_does_not():
    v, log_density = torch.tensor(0.3), torch.tensor(1.7)
    p = Normal(0.0, 1.0)
    plain, ours = (cls(v, log_density=log_density) for cls in (Delta, PointMass))
    torch.testing.assert_close(kl_divergence(plain, p), -p.log_prob(v))
    torch.testing.assert_close(kl_divergence(ours, p), log_density - p.log_prob(v))


def test_trap_12_a_masked_nan_gives_nan_gradients_and_a_missing_value_does_not():
    loc = torch.zeros(2, requires_grad=True)
    x = torch.tensor([1.0, math.nan])
    masked = dist.Normal(loc, 1.0, validate_args=False).mask(~torch.isnan(x))
    masked.log_prob(x).sum().backward()
    assert bool(torch.isnan(loc.grad).any())

    class Located(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(()))

        def forward(self, n):
            with pyro.plate("data", n):
                z = pyro.sample("z", dist.Normal(self.loc, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0))

    story = Located()
    guide = guides.build("mean_field", story, x)
    Problem.of(story, guide, {"x": x}).score().log_weights.sum().backward()
    assert bool(torch.isfinite(story.loc.grad))
    assert all(bool(torch.isfinite(p.grad).all()) for p in guide.parameters())
