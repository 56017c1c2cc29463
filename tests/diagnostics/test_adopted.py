r"""A plain Pyro pair, adopted, is served by every diagnostic: right, narrow, and one that knows
no particles."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian, rows_of
from torch import nn

import ppvae
from ppvae.diagnostics import diagnose, kl_by_site, mutual_information

SIZE = {"num_particles": 300, "num_simulations": 300, "num_replicates": 20}


class Pair(nn.Module):
    """Factor analysis in the tutorials' form, with its exact posterior times `factor`."""

    def __init__(self, factor=1.0, knows_particles=True):
        super().__init__()
        self.fa, self.factor, self.knows_particles = linear_gaussian(), factor, knows_particles

    def of_rows(self, z, x):
        return z if self.knows_particles else z.view(len(x), -1)

    def model(self, x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1)
            z = self.of_rows(pyro.sample("z", prior), x)
            loc = z @ self.fa.loadings.T + self.fa.offset
            pyro.sample("x", dist.Normal(loc, self.fa.noise_scale).to_event(1), obs=x)

    def guide(self, x):
        q = self.fa.posterior({"x": x})
        with pyro.plate("data", len(x)):
            z = dist.MultivariateNormal(q.loc, scale_tril=q.scale_tril * self.factor)
            self.of_rows(pyro.sample("z", z), x)


def adopted(rows, **options):
    pair = Pair(**options)
    return ppvae.adopt(pair.model, pair.guide, example=rows)


@pytest.fixture(scope="module")
def rows():
    return {"x": rows_of(linear_gaussian(), 60)["x"].detach()}


def test_the_right_pair_passes_every_line(rows):
    story, guide = adopted(rows)
    found = diagnose(story, guide, rows, **SIZE)
    assert not found.reasons
    failing = [f.name for f in found.findings if f.verdict not in ("pass", "none")]
    # sixty rows are by chance a little unlike the story; the guide has no part in that
    assert all(name.startswith("prior predictive") for name in failing)
    assert float(found.by_row.gap.value.abs().max()) < 1e-9


def test_a_narrow_pair_fails_the_lines_that_can_see_it(rows):
    story, guide = adopted(rows, factor=0.4)
    found = diagnose(story, guide, rows, **SIZE)
    assert found.by_row.verdict == found.sbc.verdict == found.coverage.verdict == "fail"
    assert found.posterior_predictive.verdict == "pass"  # pooled statistics do not see the scale


def test_a_pair_that_knows_no_particles_is_measured_one_particle_at_a_time(rows):
    few = {"x": rows["x"][:8]}
    knowing, plain = adopted(few), adopted(few, knows_particles=False)
    size = {"num_particles": 25, "num_simulations": 20, "num_replicates": 5}
    found = diagnose(*plain, few, **size)
    assert not found.reasons
    for run in (kl_by_site, mutual_information):
        ours, theirs = (run(*pair, few, num_particles=4) for pair in (plain, knowing))
        if run is kl_by_site:
            torch.testing.assert_close(ours.total.value, theirs.total.value, atol=1.5, rtol=0.5)
        else:
            assert abs(float(ours.kl.value - theirs.kl.value)) < 4 * float(ours.kl.std_error)


def test_the_arviz_hand_off_of_an_adopted_pair_holds_its_evidence(rows):
    story, guide = adopted(rows)
    found = ppvae.to_arviz(story, guide, rows, num_samples=8)
    log_w = torch.from_numpy(
        (found["sample_stats"]["log_p"] - found["sample_stats"]["log_q"]).values
    )
    exact = linear_gaussian().log_evidence(rows).detach()
    torch.testing.assert_close(log_w.flatten(0, 1), exact.expand(8, -1))
