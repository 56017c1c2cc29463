r"""Training: it learns, reports the plain ELBO, stops, resumes exactly, and refuses what does not
fit.
"""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import ppvae
from ppvae.stories import load as load_story


def _pair(name: str = "mean_field") -> tuple[nn.Module, nn.Module, ppvae.data.Rows]:
    torch.manual_seed(0)
    rows = ppvae.data.load("digits").head(300)
    story = load_story("vae", rows.batch(), latent_dim=3)
    return story, ppvae.guides.build(name, story, rows, hidden=(20, 20)), rows


def test_maximum_likelihood_of_a_linear_gaussian_story_is_found() -> None:
    truth = exact.linear_gaussian(5, 2)
    rows = exact.rows_of(truth, 2000)
    torch.manual_seed(1)
    story = exact.FactorAnalysis(5, 2).double()
    guide = ppvae.guides.build("full_rank", story, rows, encoder=nn.Identity())
    ppvae.fit(story, guide, rows, lr=0.02, epochs=30, progress=False)
    learned = float(story.log_evidence(rows).mean().detach())
    assert learned > float(truth.log_evidence(rows).mean().detach()) - 0.02


@pytest.mark.parametrize("objective", ["trace_elbo", "mean_field_elbo"])
def test_training_raises_the_elbo_and_both_modules_move(objective: str) -> None:
    story, guide, rows = _pair()
    before = {k: p.clone() for m in (story, guide) for k, p in m.named_parameters()}
    start = ppvae.elbo(story, guide, rows).mean()
    history = ppvae.fit(story, guide, rows, objective=objective, epochs=3, progress=False)
    end = ppvae.elbo(story, guide, rows).mean()
    assert float(end.value) > float(start.value) + 5
    moved = {
        k: bool((p != before[k]).any()) for m in (story, guide) for k, p in m.named_parameters()
    }
    assert all(moved.values()), [k for k, v in moved.items() if not v]
    assert [r["epoch"] for r in history.records] == [1, 2, 3]
    assert history.records[-1]["elbo"] == pytest.approx(-history.records[-1]["loss"])


def test_a_frozen_story_stays_as_it_is() -> None:
    story, guide, rows = _pair()
    story.requires_grad_(False)
    before = deepcopy(story.state_dict())
    ppvae.fit(story, guide, rows, epochs=1, progress=False)
    assert all(torch.equal(before[k], v) for k, v in story.state_dict().items())


def test_the_elbo_reported_during_warm_up_is_the_plain_one() -> None:
    story, guide, rows = _pair()
    history = ppvae.fit(story, guide, rows, epochs=2, kl_warmup=9, progress=False)
    plain = float(ppvae.elbo(story, guide, rows).mean().value)
    assert history.records[-1]["elbo"] == pytest.approx(plain, abs=0.3)


@pytest.mark.parametrize("objective", ["trace_elbo", "mean_field_elbo"])
def test_loss_is_linear_in_the_weight_of_the_latent_terms(objective: str) -> None:
    story, guide, rows = _pair()
    batch = rows.batch()
    loss_of = ppvae.objectives.build(objective, story, guide, rows)
    found = {}
    for weight in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        found[weight] = float(loss_of(batch, weight).detach())
    assert found[0.5] == pytest.approx((found[0.0] + found[1.0]) / 2, rel=1e-5)
    assert found[1.0] > found[0.0]


def test_vectorised_particles_estimate_the_same_loss() -> None:
    story, guide, rows = _pair()
    batch = rows.batch()
    found = []
    for particles in (1, 50):
        loss = ppvae.objectives.build("trace_elbo", story, guide, rows, num_particles=particles)
        torch.manual_seed(0)
        found.append(float(loss(batch).detach()))
    assert found[0] == pytest.approx(found[1], abs=0.5)


def test_patience_stops_early_and_puts_the_best_weights_back() -> None:
    story, guide, rows = _pair()
    history = ppvae.fit(
        story, guide, rows, val=rows.head(50), epochs=60, lr=0.2, schedule="constant", patience=3,
        progress=False,
    )  # fmt: skip
    assert history.stopped_early
    assert len(history.records) == history.best_epoch + 3
    best = max(history.column("val_elbo"))
    again = ppvae.elbo(story, guide, rows.head(50), num_particles=200).mean()
    assert abs(float(again.value) - best) < 1.5


def test_resumed_training_equals_uninterrupted_training_bit_for_bit(tmp_path: Path) -> None:
    story, guide, rows = _pair()
    other_story, other_guide = deepcopy(story), deepcopy(guide)
    whole = ppvae.fit(story, guide, rows, val=rows.head(50), epochs=4, progress=False)

    class InterruptError(Exception):
        pass

    def stop(record: dict[str, object]) -> None:
        if record["epoch"] == 2:
            raise InterruptError

    options = {"val": rows.head(50), "epochs": 4, "run_dir": tmp_path / "run", "progress": False}
    with pytest.raises(InterruptError):
        ppvae.fit(other_story, other_guide, rows, callbacks=[stop], **options)
    fresh_story, fresh_guide, _ = _pair()
    resumed = ppvae.fit(fresh_story, fresh_guide, rows, resume=True, **options)
    for one, two in ((story, fresh_story), (guide, fresh_guide)):
        assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
    assert whole.column("val_elbo") == resumed.column("val_elbo")


def test_same_seed_same_result_and_global_generator_untouched() -> None:
    results = []
    for _ in range(2):
        story, guide, rows = _pair()
        state = torch.get_rng_state()
        results.append(ppvae.fit(story, guide, rows, epochs=1, progress=False).column("loss"))
        assert torch.equal(state, torch.get_rng_state())
    assert results[0] == results[1]


def test_parameter_store_stays_empty() -> None:
    pyro.clear_param_store()
    story, guide, rows = _pair("iaf")
    ppvae.fit(story, guide, rows, epochs=1, progress=False)
    ppvae.gaps(story, guide, rows.head(3), method="iwae")
    assert not list(pyro.get_param_store().keys())


class _GlobalMean(PyroModule):
    """A global latent mean of all rows, beside a local latent."""

    def forward(self, n: int) -> None:
        centre = pyro.sample("centre", dist.Normal(torch.zeros(()).double(), 10.0))
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(centre, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.ones(1).double()).to_event(1))


def test_a_global_site_is_weighed_by_all_rows() -> None:
    torch.manual_seed(0)
    x = 3 + 2**0.5 * torch.randn(500, 1).double()
    story = _GlobalMean()
    guide = ppvae.guides.build("mean_field", story, x, encoder=nn.Identity()).double()
    ppvae.fit(
        story, guide, x, epochs=150, lr=0.02, batch_size=50, num_particles=4, progress=False,
        precision="float64",
    )  # fmt: skip
    precision = 500 / 2 + 1 / 100
    scale = float(guide.global_guide.log_scale.exp().detach())
    # Mean-field between centre and the z's: the factor of the centre has the conditional precision
    # 500 + 1/100.
    assert float(guide.global_guide.loc.detach()) == pytest.approx(
        float(x.mean()), abs=4 / precision**0.5
    )
    assert scale == pytest.approx((500 + 1 / 100) ** -0.5, rel=0.25)


class _Explodes(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = self.weight * z / (z - z)
            pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False).to_event(1))


def test_nan_loss_names_epoch_and_rows() -> None:
    story = _Explodes()
    x = torch.randn(20, 2)
    guide = ppvae.guides.build("mean_field", load_story("factor_analysis", {"x": x}), x)
    with (
        pyro.validation_enabled(False),
        pytest.raises(
            ValueError,
            match=r"epoch 1, step 1 of 1: the density of the story's site 'x' in rows \[0, 1",
        ),
    ):
        ppvae.fit(story, guide, x, epochs=1, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "magic"}, "objective among trace_elbo"),
        ({"epochs": 0}, "epochs of at least 1"),
        ({"epochs": 2.5}, "whole number as epochs, got 2.5"),
        ({"epochs": "3"}, "whole number as epochs, got '3'"),
        ({"ema_decay": "yes"}, "ema_decay from 0 .none. to below 1, got 'yes'"),
        ({"lr": "fast"}, "positive lr, got 'fast'"),
        ({"accumulate": 0}, "accumulate of at least 1"),
        ({"callbacks": print}, "list of callbacks"),
        ({"batch_size": 0}, "batch_size of at least 1"),
        ({"lr": 0.0}, "positive lr"),
        ({"kl_warmup": -1}, "kl_warmup"),
        ({"patience": 2}, "validation rows"),
        ({"precision": "bf16"}, "precision among"),
        ({"device": "abacus"}, "device such as"),
        ({"schedule": "magic"}, "schedule among"),
        ({"resume": True}, "folder of a run to go on from"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    story, guide, rows = _pair()
    with pytest.raises(ValueError, match=message):
        ppvae.fit(story, guide, rows, progress=False, **{"epochs": 1, **options})


def test_a_class_in_the_place_of_a_story_is_told_from_one() -> None:
    story, guide, rows = _pair()
    with pytest.raises(ValueError, match=r"expected a story, got the class VAE; make one: VAE\("):
        ppvae.fit(type(story), guide, rows, epochs=1, progress=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda_says_what_to_do() -> None:
    story, guide, rows = _pair()
    with pytest.raises(ValueError, match="use device='cpu'"):
        ppvae.fit(story, guide, rows, device="cuda", progress=False)


def test_a_run_folder_must_be_empty(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("something")
    story, guide, rows = _pair()
    with pytest.raises(ValueError, match="expected an empty or new run folder"):
        ppvae.fit(story, guide, rows, run_dir=tmp_path, progress=False)


def test_pixels_outside_the_support_and_empty_data_are_refused() -> None:
    story, guide, _ = _pair()
    grey = ppvae.data.load("digits", binarize="none")
    with pytest.raises(ValueError, match=r"site 'x'.*got 0\.\d+ in row"):
        ppvae.fit(story, guide, grey, progress=False)
    with pytest.raises(ValueError, match="at least one row"):
        ppvae.fit(story, guide, torch.zeros(0, 64), progress=False)
    with pytest.raises(ValueError, match=r"rows of shape \(64,\)"):
        ppvae.fit(story, guide, torch.zeros(5, 63), progress=False)


def test_public_names_are_functions_whatever_was_imported_before() -> None:
    code = (
        "import ppvae.gaps, ppvae.compare, ppvae.training.fit, ppvae\n"
        "assert all(callable(getattr(ppvae, n)) for n in ('fit', 'gaps', 'compare', 'report'))\n"
        "assert all(hasattr(ppvae, n) for n in ppvae.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
