r"""Averages of the weights, bfloat16, telemetry and TensorBoard."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import ppvae
from ppvae.config import TrainConfig
from ppvae.diagnostics import active_units, kl_by_site
from ppvae.stories import load as load_story
from ppvae.training import Callback, TensorBoard
from ppvae.training.bfloat16 import networks_in_bfloat16
from ppvae.training.ema import ExponentialMovingAverage
from ppvae.training.train_step import TrainStep, split_rows

QUIET: dict[str, Any] = {"progress": False, "batch_size": 50, "lr": 3e-3}


@pytest.fixture
def digits() -> tuple[nn.Module, nn.Module, ppvae.data.Rows]:
    torch.manual_seed(0)
    rows = ppvae.data.load("digits").head(200)
    story = load_story("vae", rows.batch(), latent_dim=4)
    return story, ppvae.guides.build("mean_field", story, rows, hidden=(32,)), rows


# --- averages ------------------------------------------------------------------


def test_the_average_of_the_weights_is_their_recursion():
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    average, expected = ExponentialMovingAverage(0.9), torch.zeros(2, dtype=torch.float64)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    trainer: Any = SimpleNamespace(parameters=[weight], optimizer=optimizer)
    average.on_train_start(trainer)
    for step in range(1, 60):
        with torch.no_grad():
            weight.copy_(torch.tensor([step, 1.0]))
        optimizer.step()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    average.on_validation_start()
    torch.testing.assert_close(weight.detach(), expected)
    average.on_epoch_end({})
    assert weight[0] == 59


class Weights(Callback):
    """The weights after each step."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.seen = module, []

    def on_step_end(self, epoch: int, step: int, loss: float) -> None:
        self.seen.append(
            torch.cat([p.detach().flatten().clone() for p in self.module.parameters()])
        )


def test_training_keeps_the_average_and_steps_from_the_weights(digits):
    plain, averaged = deepcopy(digits), deepcopy(digits)
    kept = []
    for (story, guide, rows), average in ((plain, 0.0), (averaged, 0.9)):
        seen = Weights(story)
        ppvae.fit(story, guide, rows, epochs=2, ema_decay=average, callbacks=[seen], **QUIET)
        kept.append((seen.seen, torch.cat([p.detach().flatten() for p in story.parameters()])))
    (steps, last), (steps_averaged, mean) = kept
    assert all(torch.equal(a, b) for a, b in zip(steps, steps_averaged, strict=True))
    assert torch.equal(last, steps[-1])
    expected = torch.cat([p.detach().flatten() for p in digits[0].parameters()])
    for number, weights in enumerate(steps, 1):
        decay = min(0.9, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weights
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)


def test_the_average_survives_an_interruption(digits, tmp_path):
    class StopError(Exception):
        pass

    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise StopError

    whole, cut = deepcopy(digits), deepcopy(digits)
    options = {"epochs": 4, "ema_decay": 0.95, "val": digits[2].head(50), **QUIET}
    expected = ppvae.fit(*whole, **options)
    with pytest.raises(StopError):
        ppvae.fit(*cut, callbacks=[stop], run_dir=tmp_path / "run", **options)
    again = deepcopy(digits)
    found = ppvae.fit(*again, run_dir=tmp_path / "run", resume=True, **options)
    assert found.column("val_elbo") == expected.column("val_elbo")
    for one, two in zip(whole[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(one, two)


# --- bfloat16 ------------------------------------------------------------------


class Sees(nn.Module):
    """A network that remembers in which type it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(3, 2), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        self.seen.append(y.dtype)
        return y


class Outer(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.inner = PyroModule[nn.Module]()
        self.inner.network, self.networks = Sees(), nn.ModuleList([Sees()])
        self.weight = nn.Parameter(torch.ones(3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.network(x) + self.networks[0](x) + x @ self.weight


def test_networks_compute_in_bfloat16_and_programs_do_not():
    outer, x = Outer(), torch.randn(5, 3)
    plain = outer(x)
    with networks_in_bfloat16(outer):
        halved = outer(x)
    assert halved.dtype == torch.float32
    seen = [outer.inner.network.seen, outer.networks[0].seen]
    assert seen == [[torch.float32, torch.bfloat16]] * 2
    assert 0 < (plain - halved).abs().max() < 0.05
    assert outer(x).dtype == torch.float32
    assert torch.equal(outer(x), plain)


def test_bfloat16_trains_nearly_as_float32(digits, monkeypatch):
    monkeypatch.setattr("ppvae.training.bfloat16._has_amx", lambda: True)
    found = {}
    for precision in ("float32", "bfloat16"):
        story, guide, rows = deepcopy(digits)
        history = ppvae.fit(story, guide, rows, epochs=5, precision=precision, **QUIET)
        assert {p.dtype for p in story.parameters()} == {torch.float32}
        found[precision] = history.column("loss")
    assert found["bfloat16"] != found["float32"]
    assert found["bfloat16"][-1] == pytest.approx(found["float32"][-1], abs=0.2)


def test_bfloat16_is_refused_with_a_reason_where_it_would_be_slower(digits, monkeypatch):
    monkeypatch.setattr("ppvae.training.bfloat16._has_amx", lambda: False)
    with pytest.raises(ValueError, match="expected a CPU with AMX for precision='bfloat16'"):
        ppvae.fit(*digits, epochs=1, device="cpu", precision="bfloat16", **QUIET)


# --- telemetry -----------------------------------------------------------------


def test_records_tell_what_each_site_costs_and_how_much_is_in_use(digits):
    story, guide, rows = digits
    record = ppvae.fit(story, guide, rows, epochs=60, **QUIET).records[-1]
    exact = float(kl_by_site(story, guide, rows).total.value.mean())  # both Gaussian: no noise
    assert record["kl"]["z"] == pytest.approx(exact, rel=1e-4)
    assert record["active_units"] == {"z": active_units(story, guide, rows).num_active}


def test_telemetry_draws_nothing_from_the_noise_of_training(digits, monkeypatch):
    with_it = ppvae.fit(*deepcopy(digits), epochs=2, **QUIET).column("loss")
    monkeypatch.setattr("ppvae.training.trainer.site_telemetry", lambda problem: {})
    assert ppvae.fit(*deepcopy(digits), epochs=2, **QUIET).column("loss") == with_it


def test_tensorboard_gets_a_curve_for_each_number(digits, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder: Path = tmp_path / "curves"
    history = ppvae.fit(*digits, epochs=2, callbacks=[TensorBoard(folder)], **QUIET)
    curves = reader.EventAccumulator(str(folder))
    curves.Reload()
    assert {"loss", "elbo", "kl/z", "active_units/z", "gradient_norm"} <= set(
        curves.Tags()["scalars"]
    )
    events = curves.Scalars("elbo")
    assert [e.step for e in events] == [1, 2]
    assert [e.value for e in events] == pytest.approx(history.column("elbo"), rel=1e-5)


# --- accumulation --------------------------------------------------------------


class LeastSquares(nn.Module):
    """A loss without noise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(3.0).double())

    def forward(self, batch: dict[str, torch.Tensor], kl_weight: float) -> torch.Tensor:
        return (batch["x"] @ self.weight - 1).square().mean()


@pytest.mark.parametrize("accumulate", [2, 3, 7, 25])  # of 7 rows: some parts have none
def test_accumulated_parts_take_the_step_of_the_whole_batch(accumulate):
    batch = {"x": torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()}
    found = []
    for parts in (1, accumulate):
        loss_of: Any = LeastSquares()
        step = TrainStep(loss_of, TrainConfig(accumulate=parts))
        found.append((*step.gradient(batch, 1.0), *loss_of.weight.grad.tolist()))
    assert found[1] == pytest.approx(found[0], rel=1e-12)


def test_parts_differ_by_a_row_at_most_and_an_empty_one_has_no_share():
    parts = split_rows({"x": torch.arange(2)}, 3)
    assert [(rows["x"].tolist(), share) for rows, share in parts] == [
        ([0], 0.0),
        ([0], 0.5),
        ([1], 0.5),
    ]


def test_accumulated_parts_draw_their_own_noise_and_train_alike(digits):
    losses = [
        ppvae.fit(*deepcopy(digits), epochs=3, accumulate=parts, **QUIET).column("loss")
        for parts in (1, 7)
    ]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.02)
