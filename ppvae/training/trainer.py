r"""Epochs of stochastic gradient ascent, their validation, and the state that a checkpoint must hold."""

__all__ = ["Trainer"]

import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import mul
from typing import Any

import torch
from torch import Tensor

from ppvae import ranks
from ppvae.data import Rows, Stream, iter_chunks, preview, to_batch
from ppvae.objectives import Objective
from ppvae.problem.weights import score
from ppvae.ranks import noise_state, set_noise_state
from ppvae.story import TensorDict, check_values, num_rows_of, seeded
from ppvae.training.config import SCHEDULES, TrainConfig
from ppvae.training.history import History, Record
from ppvae.training.nonfinite import raise_nonfinite
from ppvae.training.telemetry import site_telemetry
from ppvae.training.train_step import TrainStep

ROWS_WITHOUT_VALIDATION = 1000  # training rows that stand in for validation rows
ROWS_OF_TELEMETRY = 200


class Trainer:
    """Epochs, validation, and the state that a checkpoint must hold.

    Arguments:
        loss_of: The objective, with story and guide.
        rows: Training rows.
        val: Validation rows, if any.
        settings: How to train.

    Attributes:
        after_step: Called after each step.
        on_step_end: The user's hook, with epoch, step and loss; None for none, as it waits for the loss.
    """

    def __init__(
        self,
        loss_of: Objective,
        rows: Rows | Stream,
        val: Rows | Stream | None,
        settings: TrainConfig,
    ) -> None:
        self.loss_of, self.rows, self.val, self.settings = loss_of, rows, val, settings
        self.story, self.guide = loss_of.story, loss_of.guide
        self.descent = TrainStep(loss_of, settings)
        self.after_step: Callable[[], None] = lambda: None
        self.on_step_end: Callable[[int, int, float], None] | None = None
        self.generator = torch.Generator()
        self.history = History()
        self.best_elbo = -float("inf")
        self.best_weights: dict[str, Tensor] | None = None
        self.num_batches = math.ceil(len(rows) / settings.batch_size)
        self._begin()

    def seed(self, seed: int) -> None:
        """Fix the order of the rows."""
        self.generator.manual_seed(seed)
        self._begin()

    def run(self) -> Iterator[Record]:
        """Train epoch by epoch, yielding each record after it."""
        for epoch in range(len(self.history.records) + 1, self.settings.epochs + 1):
            if self._out_of_patience():
                break
            record = self._epoch(epoch)
            self.history.records.append(record)
            self.history.seconds += record["seconds"]
            yield record
        self._out_of_patience()
        self._put_best()

    @property
    def is_done(self) -> bool:
        """Whether the last epoch has been trained."""
        return len(self.history.records) >= self.settings.epochs or self._out_of_patience()

    def _out_of_patience(self) -> bool:
        """Whether the validation ELBO has not risen for `patience` epochs."""
        patience = self.settings.patience
        waited = len(self.history.records) - self.history.best_epoch
        self.history.stopped_early = patience is not None and waited >= patience
        return self.history.stopped_early

    def _begin(self) -> None:
        """Stand before the first batch of an epoch."""
        self.order = self.generator.get_state()  # the epoch's order of rows, and its redrawn bits
        self.batches_done = self.skipped = self.descent.num_clipped = 0
        # Numbers, not tensors: small ones that live on among large ones that come and go break the heap into pieces.
        self.losses: list[float] = []
        self.counts: list[int] = []
        self.norms: list[float] = []
        self.elapsed = 0.0  # seconds of this epoch, before an interruption

    def _epoch(self, epoch: int) -> Record:
        start = time.perf_counter() - self.elapsed
        kl_weight = min(1.0, epoch / (self.settings.kl_warmup + 1))
        self.story.train()
        self.guide.train()
        self.generator.set_state(self.order)  # batches that are done are drawn again, and left out
        drawn = self.rows.batches(self.settings.batch_size, generator=self.generator, shuffle=True)
        looked_at = self._looked_at(drawn, self.rows)
        for batch in islice(looked_at, self.batches_done, None):
            self._set_lr(epoch)
            loss = self._step(batch, kl_weight, epoch)
            self.batches_done += 1
            self.elapsed = time.perf_counter() - start
            self.after_step()
            if self.on_step_end is not None:
                self.on_step_end(epoch, self.batches_done, float(loss))
        self._align()
        record = self._record(epoch, kl_weight, time.perf_counter() - start)
        self._begin()
        return record

    def _looked_at(
        self, batches: Iterable[TensorDict], rows: Rows | Stream
    ) -> Iterator[TensorDict]:
        """Batches of a stream, whose values are checked as they come: at the door only its first rows were seen."""
        unseen = isinstance(rows, Stream) and not hasattr(self.story, "run_conditioned")
        for batch in batches:
            if unseen:
                check_values(self.loss_of.sites, batch)
            yield batch

    def _set_lr(self, epoch: int) -> None:
        done = (epoch - 1 + self.batches_done / self.num_batches) / self.settings.epochs
        lr = self.settings.lr * SCHEDULES[self.settings.schedule](done)
        self.descent.optimiser.param_groups[0]["lr"] = lr

    def _step(self, batch: TensorDict, kl_weight: float, epoch: int) -> Tensor:
        """One step of the optimiser; none where the loss or its gradient is not finite."""
        buffers = list(self.loss_of.buffers()) if self.settings.max_skips else []
        kept = [b.clone() for b in buffers]
        loss, norm = self.descent.gradient(batch, kl_weight)
        if torch.isfinite(loss + norm):
            self.descent.move()
            self.losses.append(float(loss))
            self.counts.append(num_rows_of(batch))
            self.norms.append(float(norm))
            return loss
        for buffer, before in zip(buffers, kept, strict=True):
            buffer.copy_(before)
        self.skipped += 1
        before_now = sum(r.get("skipped", 0) for r in self.history.records)
        if self.skipped + before_now > self.settings.max_skips:
            when = f"epoch {epoch}, step {self.batches_done + 1} of {self.num_batches}"
            raise_nonfinite(self.loss_of, self.rows, when, bool(torch.isfinite(loss)))
        return loss

    def _align(self) -> None:
        """Let all processes draw alike again, where draws of a part's own have taken them apart."""
        if ranks.num_ranks() > 1:
            device = self.rows.device
            first = [ranks.of_first(s) for s in noise_state(device) if s is not None]
            set_noise_state((first[0], first[1] if len(first) > 1 else None), device)

    def _record(self, epoch: int, kl_weight: float, seconds: float) -> Record:
        if not self.losses:
            raise_nonfinite(self.loss_of, self.rows, f"every step of epoch {epoch}", False)
        mean_loss = math.fsum(map(mul, self.losses, self.counts)) / sum(self.counts)
        first = preview(self.rows)
        few = first.head(min(ROWS_WITHOUT_VALIDATION, len(first)))
        with self.descent.average.in_place():
            plain = (
                -mean_loss
                if kl_weight == 1.0 and self.loss_of.is_elbo and not self.settings.average
                else self._elbo(few)
            )
            record = {
                "epoch": epoch,
                "loss": mean_loss,
                "elbo": plain,
                "val_elbo": None if self.val is None else self._elbo(self.val),
                **self._telemetry(few if self.val is None else self.val),
                "gradient_norm": math.fsum(self.norms) / len(self.norms),
                "num_clipped": self.descent.num_clipped,
                "skipped": self.skipped,
                "seconds": seconds,
                "rows_per_second": len(self.rows) / seconds,
            }
            self._remember(record)
        return record

    def _elbo(self, rows: Rows | Stream) -> float:
        """Plain ELBO with one particle and the same noise at every epoch, in nats per row."""
        self.story.eval()
        self.guide.eval()

        def total(piece: TensorDict, num_rows: int) -> float:
            scores = score(self.story, self.guide, piece, 1)
            shared = scores.log_shared.sum() * num_rows_of(piece) / len(rows)
            return float(scores.log_weights.sum() + shared)

        with torch.no_grad(), seeded(0, self.story):
            pieces = self._looked_at(iter_chunks(self.story, rows), rows)
            return sum(ranks.over_parts(total, pieces)) / len(rows)

    def _telemetry(self, rows: Rows | Stream) -> dict[str, Any]:
        few = to_batch(self.story, preview(rows), ROWS_OF_TELEMETRY)
        return site_telemetry(self.story, self.guide, few, self.loss_of.sites)

    def _remember(self, record: Record) -> None:
        if self.val is None:
            self.history.best_epoch = record["epoch"]
        elif record["val_elbo"] > self.best_elbo:
            self.best_elbo, self.history.best_epoch = record["val_elbo"], record["epoch"]
            weights = self.loss_of.state_dict()
            self.best_weights = {k: v.detach().clone() for k, v in weights.items()}

    def _put_best(self) -> None:
        if self.best_weights is None:
            self.descent.average.put()
        else:
            self.loss_of.load_state_dict(self.best_weights)

    def state(self) -> dict[str, Any]:
        """All that an exact continuation needs beside the weights."""
        noise, device_noise = noise_state(self.rows.device)
        return {
            "optimiser": self.descent.optimiser.state_dict(),
            "average": self.descent.average.state(),
            "usual_norm": self.descent.usual_norm,
            "records": self.history.records,
            "seconds": self.history.seconds,
            "best_epoch": self.history.best_epoch,
            "best_elbo": self.best_elbo,
            "best_weights": self.best_weights,
            "objective": self.loss_of.own_state(),
            "order": self.order,
            "noise": noise,
            "device_noise": device_noise,
            "under_way": {
                "batches": self.batches_done,
                "losses": self.losses,
                "counts": self.counts,
                "norms": self.norms,
                "num_clipped": self.descent.num_clipped,
                "skipped": self.skipped,
                "elapsed": self.elapsed,
            },
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from a checkpoint's state; None starts afresh."""
        if state is None:
            return
        self.descent.optimiser.load_state_dict(state["optimiser"])
        if "average" in state:
            self.descent.average.restore(**state["average"])
        self.descent.usual_norm = state.get("usual_norm", 0.0)
        self.history = History(state["records"], state["seconds"], state["best_epoch"])
        self.best_elbo, self.best_weights = state["best_elbo"], state["best_weights"]
        self.loss_of.load_state_dict(state.get("objective", {}), strict=False)
        self.generator.set_state(state["order"])
        self._begin()
        if "under_way" in state:  # folders of earlier versions hold ends of epochs only
            self._take_up(state["under_way"])
        set_noise_state((state["noise"], state.get("device_noise")), self.rows.device)

    def _take_up(self, state: dict[str, Any]) -> None:
        """Stand in the middle of an epoch."""
        self.batches_done, self.counts = state["batches"], state["counts"]
        self.losses = [float(loss) for loss in state["losses"]]  # tensors, in earlier versions
        self.norms = [float(norm) for norm in state["norms"]]
        self.skipped, self.elapsed = state["skipped"], state["elapsed"]
        self.descent.num_clipped = state.get("num_clipped", 0)
