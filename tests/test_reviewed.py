r"""Faults that a reading of the code found once, each kept from coming back."""

from copy import deepcopy
from pathlib import Path

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

import ppvae
from ppvae.config import EvidenceConfig, TrainConfig
from ppvae.inference.hmc import State, transition
from ppvae.stories import load as load_story


def _pair() -> tuple[nn.Module, nn.Module, ppvae.data.Rows]:
    torch.manual_seed(0)
    rows = ppvae.data.load("digits").head(200)
    story = load_story("vae", rows.batch(), latent_dim=3, hidden=(20,))
    return story, ppvae.guides.build("mean_field", story, rows, hidden=(20,)), rows


def test_resuming_a_run_that_stopped_early_changes_nothing(tmp_path: Path) -> None:
    story, guide, rows = _pair()
    options = {
        "val": rows.head(50), "epochs": 40, "lr": 0.2, "schedule": "constant", "patience": 2,
        "run_dir": tmp_path / "run", "progress": False,
    }  # fmt: skip
    whole = ppvae.fit(story, guide, rows, **options)
    assert whole.stopped_early
    again_story, again_guide, _ = _pair()
    again = ppvae.fit(again_story, again_guide, rows, resume=True, **options)
    assert again.stopped_early and len(again.records) == len(whole.records)
    assert all(torch.equal(v, again_story.state_dict()[k]) for k, v in story.state_dict().items())


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    story, guide, rows = _pair()
    options = {"epochs": 1, "run_dir": tmp_path / "run", "progress": False}
    ppvae.fit(story, guide, rows, **options)
    with pytest.raises(ValueError, match=r"lr 0\.001 -> 0\.5"):
        ppvae.fit(story, guide, rows, resume=True, lr=0.5, **options)


def test_scores_do_not_depend_on_training_mode_and_leave_it(tmp_path: Path) -> None:
    story, _, rows = _pair()
    encoder = nn.Sequential(nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Dropout(0.5))
    guide = ppvae.guides.build("mean_field", story, rows, encoder=encoder)
    buffers = deepcopy(guide.state_dict())
    guide.train()
    training = ppvae.elbo(story, guide, rows)
    assert guide.training
    assert torch.equal(ppvae.elbo(story, guide.eval(), rows).value, training.value)
    assert all(torch.equal(v, buffers[k]) for k, v in guide.state_dict().items())
    ppvae.save(tmp_path, story, guide)
    ppvae.load(tmp_path, story.train(), guide.train())
    assert not guide.training and not story.training


def test_a_guide_goes_on_sharing_what_it_shares_with_its_story(short_search) -> None:
    story, _, rows = _pair()
    story.codes = nn.Linear(64, 20)
    guide = ppvae.guides.build("mean_field", story, rows, encoder=story.codes)
    for decoder in ("own", "shared"):
        league = ppvae.compare(
            story, {"tied": guide}, rows, rows=2, decoder=decoder,
            train=TrainConfig(epochs=1, progress=False), evidence=EvidenceConfig(method="iwae"),
        )  # fmt: skip
        assert league.guides["tied"].features.encoder is league.stories["tied"].codes


def test_a_proposal_of_infinite_density_is_rejected() -> None:
    torch.manual_seed(0)

    def evaluate(eps: Tensor) -> State:
        inside = eps.abs().amax(-1) <= 1
        return State(eps, torch.where(inside, -0.5 * eps.square().sum(-1), torch.inf), -eps)

    state = evaluate(torch.zeros(200, 3, 1))
    for _ in range(20):
        state, _, _ = transition(evaluate, state, torch.full((3,), 0.5), 5)
    assert float(state.position.abs().max()) <= 1


class _Rates(PyroModule):
    """A positive rate whose prior density is infinite at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shape", torch.tensor(0.5))

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            rate = pyro.sample("rate", dist.Gamma(self.shape, 1.0))
            counts = dist.Poisson(rate.unsqueeze(-1).expand(*rate.shape, 6))
            pyro.sample("x", counts.to_event(1))


def test_annealing_agrees_with_quadrature_on_a_positive_site() -> None:
    story = _Rates()
    x = ppvae.simulate(story, 10, seed=0)["x"]
    guide = ppvae.guides.build("mean_field", story, x)
    short = ppvae.Annealing(num_temperatures=20)
    ais = ppvae.log_evidence(story, x, method="ais", guide=guide, annealing=short, local_steps=200)
    grid = ppvae.log_evidence(story, x, method="quadrature", guide=guide, local_steps=200)
    total = x.sum(-1)
    # Gamma(1/2, 1) prior, six Poisson counts: sum and integral in closed form.
    exact_value = (
        torch.lgamma(total + 0.5) - torch.lgamma(torch.tensor(0.5))
        - (total + 0.5) * torch.tensor(7.0).log() - torch.lgamma(x + 1).sum(-1)
    )  # fmt: skip
    assert float((grid.value - exact_value).abs().max()) < 5e-3
    error = (ais - ppvae.Estimate.exact(exact_value)).value
    noise = float(ais.std_error.square().sum().sqrt()) / len(x)
    assert abs(float(error.mean())) < 4 * noise


class _WithCovariates(PyroModule):
    def forward(self, n: int, **covariates: Tensor) -> None:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + covariates["shift"], 1.0).to_event(1))


def test_a_story_may_take_any_covariates() -> None:
    story = _WithCovariates()
    rows = {"x": torch.randn(30, 2), "shift": torch.randn(30, 2)}
    assert set(ppvae.check_story(story, rows)) == {"z", "x"}
    log_p = ppvae.log_joint(story, rows, {"z": torch.zeros(1, 30, 2)})
    shifted = dist.Normal(rows["shift"], 1.0).log_prob(rows["x"]).sum(-1)
    prior = dist.Normal(0.0, 1.0).log_prob(torch.zeros(30, 2)).sum(-1)
    assert torch.allclose(log_p[0], shifted + prior, atol=1e-5)


def test_missing_values_make_the_closed_form_step_back(short_search) -> None:
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 12)
    rows["x"][::3, 0] = torch.nan
    guide = ppvae.guides.build("full_rank", story, rows)
    found = ppvae.gaps(
        story, guide, rows, annealing=ppvae.Annealing(num_temperatures=5), num_simulated=0
    )
    assert found.method in ("iwae", "ais")
    with pytest.raises(ValueError, match="missing values"):
        ppvae.log_evidence(story, rows, method="exact")


def test_bad_requests_are_refused_before_training() -> None:
    story, guide, rows = _pair()
    for options, message in (
        ({"train": TrainConfig(objective="magic")}, "objective among"),
        ({"evidence": EvidenceConfig(num_particles=5)}, "at least 25 particles"),
        ({"evidence": EvidenceConfig(method="magic")}, "evidence method among"),
        ({"evidence": EvidenceConfig(method="exact")}, "closed form"),
    ):
        with pytest.raises(ValueError, match=message):
            ppvae.compare(story, {"a": guide}, rows, **options)
    with pytest.raises(ValueError, match="is a module"):
        ppvae.elbo(story, lambda batch: None, rows)
    with pytest.raises(ValueError, match="parameters for each row"):
        ppvae.gaps(story, guide.local(rows.batch()), rows)
