r"""The library's stories and guides in Pyro's own tools, and what must not happen on the way."""

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from built import built
from families import CONTINUOUS
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch.distributions import Normal, kl_divergence

import ppvae
from ppvae import guides
from ppvae.story import local_params, observe, trace_sites

pytestmark = pytest.mark.usefixtures("empty_store")


def test_svi_moves_every_parameter_of_a_story_and_of_several_guides():
    story, batch, _ = built("hierarchical", "mean_field")
    several = [built("hierarchical", family, name=f"guide_{family}")[2] for family in CONTINUOUS]
    for guide in several:
        modules = [("story", story), ("guide", guide)]
        before = {(w, k): p.clone() for w, m in modules for k, p in m.named_parameters()}
        others = [p.clone() for g in several if g is not guide for p in g.parameters()]
        svi = SVI(observe(story), guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        for _ in range(3):
            svi.step(batch)
        for which, module in modules:
            for key, parameter in module.named_parameters():
                if key != "noise_unconstrained":  # takes no part in this story
                    assert not torch.equal(parameter, before[which, key]), f"{which} {key}"
        still = [p for g in several if g is not guide for p in g.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(others, still, strict=True))


def test_svi_and_the_library_see_the_same_parameters():
    torch.manual_seed(0)
    story, batch, guide = built("two_sites", "iaf")
    svi = SVI(observe(story), guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    start = ppvae.elbo(story, guide, batch).mean().value
    for _ in range(100):
        svi.step(batch)
    assert ppvae.elbo(story, guide, batch).mean().value > start + 0.1
    noise = float(story.noise.detach())
    assert noise == pytest.approx(float(pyro.param("noise").detach()))


# The analytic KL of TraceMeanField_ELBO


def losses(elbo, story, guide, batch, repeats=30):
    model = observe(story)
    with local_params(story, guide), torch.no_grad():
        return torch.stack(
            [elbo.differentiable_loss(model, guide, batch) for _ in range(repeats)]
        ).double()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["mean_field", "full_rank", "iaf", "mixture"])
@pytest.mark.parametrize("name", ["two_sites", "positive", "simplex", "inner_explicit", "bounded"])
def test_the_analytic_elbo_has_the_mean_of_the_plain_one(name, family):
    torch.manual_seed(0)
    story, batch, guide = built(name, family)
    nesting = trace_sites(story, batch).max_plate_nesting
    for one in (guide, guide.local(batch)):
        options = {"num_particles": 100, "vectorize_particles": True, "max_plate_nesting": nesting}
        plain = losses(Trace_ELBO(**options), story, one, batch)
        analytic = losses(TraceMeanField_ELBO(**options), story, one, batch)
        error = ((plain.var() + analytic.var()) / len(plain)).sqrt()
        assert abs(float(plain.mean() - analytic.mean())) < 4 * float(error)


def test_the_kl_of_mean_field_is_analytic():
    class Unseen(PyroModule):
        """The data say nothing about z, so that the KL is all that a particle could move."""

        def forward(self, n):
            with pyro.plate("data", n):
                pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

    story, x = Unseen(), torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double()
    guide = guides.build("mean_field", story, x).double()
    found = losses(TraceMeanField_ELBO(), story, guide, {"x": x}, 3)
    q = guide.posterior({"x": x}).base_dist
    kl = kl_divergence(Normal(q.loc, q.scale), Normal(0.0, 1.0)).sum()
    expected = kl - Normal(0.0, 1.0).log_prob(x).sum()
    torch.testing.assert_close(found, expected.detach().expand(3))


# Side effects


def test_importing_ppvae_changes_no_global_setting():
    code = (
        "import torch, pyro\n"
        "from torch.distributions import Distribution\n"
        "state, seed = torch.get_rng_state(), torch.initial_seed()\n"
        "before = (Distribution._validate_args, pyro.settings.get(), torch.get_default_dtype(),\n"
        "          torch.get_num_threads(), torch.is_grad_enabled())\n"
        "import ppvae, ppvae.guides, ppvae.inference, ppvae.gaps, ppvae.training.fit\n"
        "after = (Distribution._validate_args, pyro.settings.get(), torch.get_default_dtype(),\n"
        "         torch.get_num_threads(), torch.is_grad_enabled())\n"
        "assert before == after, (before, after)\n"
        "assert torch.equal(state, torch.get_rng_state()) and seed == torch.initial_seed()\n"
        "assert len(pyro.get_param_store()) == 0\n"
        "import sys; assert 'zuko' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("family", CONTINUOUS)
def test_fit_elbo_and_gaps_leave_the_parameter_store_empty(family):
    story, batch, guide = built("two_sites", family)
    state = torch.get_rng_state()
    ppvae.fit(story, guide, batch, epochs=2, batch_size=5, progress=False)
    ppvae.elbo(story, guide, batch)
    few = {"x": batch["x"][:2]}
    ppvae.gaps(
        story, guide, few, num_particles=30, local_steps=20, num_simulated=0,
        annealing=ppvae.Annealing(num_chains=2, num_temperatures=2),
    )  # fmt: skip
    assert len(pyro.get_param_store()) == 0
    assert torch.equal(state, torch.get_rng_state())
