r"""Epochs of stochastic gradient ascent, their validation, and the state of a checkpoint."""

__all__ = ["Trainer"]

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from operator import mul
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.config import TrainConfig
from ppvae.data import Rows, Stream, preview, to_batch
from ppvae.objectives import Objective
from ppvae.story import TensorDict, num_rows_of
from ppvae.training.callbacks import Callback
from ppvae.training.captured_step import compile_mode
from ppvae.training.distributed import (
    all_gather_object,
    broadcast_weights,
    on_main_process,
    rank,
)
from ppvae.training.history import History, Record
from ppvae.training.nonfinite import raise_nonfinite
from ppvae.training.train_step import TrainStep
from ppvae.training.validation import checked_batches, site_telemetry, validation_elbo

ROWS_WITHOUT_VALIDATION = 1000  # training rows that stand in for validation rows
ROWS_OF_TELEMETRY = 200


@dataclass
class EpochProgress:
    """An epoch under way.

    Arguments:
        order: State of the generator of the order of the rows, before the epoch.
        batches_done: Batches that are done.
        losses, counts, norms: Of the steps that were not skipped: loss, rows, gradient norm.
            Numbers, not tensors: small ones that live on among large ones that come and go break
                the heap into pieces.
        skipped: Steps without a finite loss or gradient.
        elapsed: Seconds, before an interruption.
    """

    order: Tensor
    batches_done: int = 0
    losses: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    skipped: int = 0
    elapsed: float = 0.0


class Trainer:
    """Epochs, their validation, and the state that a checkpoint must hold.

    Arguments:
        loss_of: The objective, with story and guide.
        config: How to train.
        rows: Training rows.
        val: Validation rows, if any.
        callbacks: What is called as training goes on, in this order.

    Attributes:
        history: What happened so far.
        epoch: The epoch under way.
    """

    def __init__(
        self,
        loss_of: Objective,
        config: TrainConfig,
        rows: Rows | Stream,
        val: Rows | Stream | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.loss_of, self.config, self.callbacks = loss_of, config, callbacks
        self.rows, self.val = rows, val
        self.steps_per_epoch = math.ceil(len(rows) / config.batch_size)
        self.compile_mode = compile_mode(config, rows, self.steps_per_epoch * config.epochs)
        self.train_step = TrainStep(loss_of, config, self.steps_per_epoch, self.compile_mode)
        self.history = History()
        self.generator = torch.Generator().manual_seed(config.seed)
        self.epoch = EpochProgress(self.generator.get_state())

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Story and guide, by name."""
        assert self.loss_of.guide is not None
        return {"story": self.loss_of.story, "guide": self.loss_of.guide}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that are trained."""
        return self.train_step.parameters

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Over all of them."""
        return self.train_step.optimizer

    @property
    def is_done(self) -> bool:
        """Whether the last epoch has been trained."""
        return len(self.history.records) >= self.config.epochs or self.history.stopped_early

    def fit(self) -> History:
        """Train epoch by epoch, from the start or from where a checkpoint left off."""
        self._call("on_train_start", self)
        while not self.is_done:
            record = self._run_epoch(len(self.history.records) + 1)
            self.history.records.append(record)
            self.history.seconds += record["seconds"]
            self._call("on_epoch_end", record)
        self.history.compile = self.compile_mode
        if self.train_step.captured is not None and self.train_step.captured.note:
            self.history.compile = f"off ({self.train_step.captured.note})"
        self._call("on_train_end", self.history)
        return self.history

    def _run_epoch(self, number: int) -> Record:
        epoch, config = self.epoch, self.config
        start = time.perf_counter() - epoch.elapsed
        kl_weight = min(1.0, number / (config.kl_warmup + 1))
        for module in self.modules.values():
            module.train()
        self.generator.set_state(epoch.order)  # batches that are done are drawn again, and left out
        batches = self.rows.batches(config.batch_size, generator=self.generator, shuffle=True)
        checked = checked_batches(self.loss_of.problem, batches, self.rows)
        for batch in islice(checked, epoch.batches_done, None):
            loss = self._run_step(batch, kl_weight, number)
            epoch.batches_done += 1
            epoch.elapsed = time.perf_counter() - start
            self._call("on_step_end", number, epoch.batches_done, loss)
        if not epoch.losses:
            raise_nonfinite(self.loss_of, self.rows, f"every step of epoch {number}", False)
        broadcast_weights(self.loss_of)  # buffers that a step changes differ between processes
        self._call("on_validation_start")
        record = on_main_process(
            lambda: self._measure(number, kl_weight, time.perf_counter() - start)
        )
        self._call("on_validation_end", record)
        self.epoch = EpochProgress(self.generator.get_state())
        self.train_step.num_clipped = 0
        return record

    def _run_step(self, batch: TensorDict, kl_weight: float, number: int) -> float:
        """One step of the optimizer; none where the loss or its gradient is not finite."""
        epoch = self.epoch
        buffers = list(self.loss_of.buffers()) if self.config.max_skips else []
        before = [b.clone() for b in buffers]
        loss, norm = self.train_step.gradient(batch, kl_weight)
        if math.isfinite(loss + norm):
            self.train_step.update()
            epoch.losses.append(loss)
            epoch.counts.append(num_rows_of(batch))
            epoch.norms.append(norm)
        else:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            epoch.skipped += 1
            skipped = epoch.skipped + sum(r["skipped"] for r in self.history.records)
            if skipped > self.config.max_skips:
                step = f"step {epoch.batches_done + 1} of {self.steps_per_epoch}"
                when = f"epoch {number}, {step}"
                raise_nonfinite(self.loss_of, self.rows, when, math.isfinite(loss))
        self.train_step.scheduler.step()
        return loss

    def _measure(self, number: int, kl_weight: float, seconds: float) -> Record:
        """The record of an epoch."""
        epoch, problem = self.epoch, self.loss_of.problem
        loss = math.fsum(map(mul, epoch.losses, epoch.counts)) / sum(epoch.counts)
        first = preview(self.rows)
        few = first.head(min(ROWS_WITHOUT_VALIDATION, len(first)))
        is_plain = kl_weight == 1.0 and self.loss_of.is_elbo and not self.config.ema_decay
        elbo = -loss if is_plain else validation_elbo(problem, few)
        val_elbo = None if self.val is None else validation_elbo(problem, self.val)
        looked_at = preview(few if self.val is None else self.val)
        batch = to_batch(self.loss_of.story, looked_at, ROWS_OF_TELEMETRY)
        return {
            "epoch": number,
            "loss": loss,
            "elbo": elbo,
            "val_elbo": val_elbo,
            **site_telemetry(problem.on(batch)),
            "gradient_norm": math.fsum(epoch.norms) / len(epoch.norms),
            "num_clipped": self.train_step.num_clipped,
            "skipped": epoch.skipped,
            "seconds": seconds,
            "rows_per_second": len(self.rows) / seconds,
        }

    def _call(self, hook: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(*args)

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs beside the weights; all processes must call it."""
        states = {type(c).__name__: c.state_dict() for c in self.callbacks}
        return {
            "compile": self.compile_mode,
            "optimizer": self.optimizer.state_dict(),
            "mean_norm": self.train_step.mean_norm,
            "num_clipped": self.train_step.num_clipped,
            "records": self.history.records,
            "seconds": self.history.seconds,
            "best_epoch": self.history.best_epoch,
            "callbacks": {name: state for name, state in states.items() if state},
            "objective": {k: v.cpu() for k, v in self.loss_of.own_state().items()},
            "progress": asdict(self.epoch),
            "generators": all_gather_object(self._generator_states()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, with another number of processes too."""
        self.history = History(state["records"], state["seconds"], state["best_epoch"])
        self.epoch = EpochProgress(**state["progress"])
        self.loss_of.load_state_dict(state["objective"], strict=False)
        if state["compile"] != self.compile_mode:  # another number of epochs: keep what was chosen
            self.compile_mode = state["compile"]
            self.train_step = TrainStep(
                self.loss_of, self.config, self.steps_per_epoch, self.compile_mode
            )
        self.optimizer.load_state_dict(state["optimizer"])
        self.train_step.mean_norm = state["mean_norm"]
        self.train_step.num_clipped = state["num_clipped"]
        done = len(self.history.records) * self.steps_per_epoch + self.epoch.batches_done
        self.train_step.set_step(done)
        for callback in self.callbacks:
            if type(callback).__name__ in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][type(callback).__name__])
        if rank() < len(
            state["generators"]
        ):  # others, where there are more now, go on as they began
            cpu, *cuda = state["generators"][rank()]
            torch.set_rng_state(cpu)
            for device_state in cuda:
                torch.cuda.set_rng_state(device_state, self.rows.device)

    def _generator_states(self) -> list[Tensor]:
        device = self.rows.device
        cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
        return [torch.get_rng_state(), *cuda]
