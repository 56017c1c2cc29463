r"""Epochs of stochastic gradient ascent, their validation, and the state that a checkpoint must hold."""

__all__ = ["OPTIMIZERS", "SCHEDULES", "History", "Record", "Trainer"]

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.blame import blame
from ppvae.chunks import row_chunks
from ppvae.data import Rows
from ppvae.objectives import Objective
from ppvae.story import TensorDict, num_rows_of, seeded
from ppvae.weights import batch_for, score

Record = dict[str, Any]

# Factor on the step size as training goes from 0 to 1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "tail": lambda done: min(1.0, 4 * (1 - done)),
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}

# One for all parameters, fused where torch can, with torch's own settings beside the step size.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "sgd": partial(torch.optim.SGD, fused=True),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": partial(torch.optim.Adagrad, fused=True),
}


@dataclass
class History:
    """What happened during training, one record an epoch.

    Attributes:
        records: Dicts with `epoch` (from 1), `loss` (nats per row, lower is better), `elbo` and `val_elbo` (plain
            ELBO, nats per row, higher is better; None without validation rows), `gradient_norm` (mean over
            the steps, before clipping), `skipped` (steps without a finite loss), `seconds`, `rows_per_second`.
        seconds: Training time in all.
        best_epoch: The epoch whose weights are kept: the best on the validation rows, or the last.
        stopped_early: Whether `patience` ran out.
    """

    records: list[Record] = field(default_factory=list)
    seconds: float = 0.0
    best_epoch: int = 0
    stopped_early: bool = False

    def column(self, key: str) -> list[Any]:
        """One quantity over the epochs."""
        return [record[key] for record in self.records]


class Trainer:
    """Epochs, validation, and the state that a checkpoint must hold."""

    def __init__(
        self,
        story: nn.Module,
        guide: nn.Module,
        rows: Rows,
        val: Rows | None,
        loss_of: Objective,
        batch_size: int,
        lr: float,
        schedule: Callable[[float], float],
        kl_warmup: int,
        optimizer: str = "adam",
        clip_norm: float | None = None,
        max_skips: int = 0,
    ) -> None:
        self.story, self.guide, self.rows, self.val = story, guide, rows, val
        self.loss_of, self.batch_size, self.kl_warmup = loss_of, batch_size, kl_warmup
        self.lr, self.schedule = lr, schedule
        self.parameters = [p for p in loss_of.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("expected a parameter to train, got a story and a guide all frozen")
        self.optimiser = OPTIMIZERS[optimizer](self.parameters, lr=lr)
        self.clip_norm, self.max_skips = clip_norm, max_skips
        self.after_step: Callable[[], None] = lambda: None
        self.on_step_end: Callable[[int, int, float], None] | None = None
        self.generator = torch.Generator()
        self._begin()
        self.history = History()
        self.best_elbo = -float("inf")
        self.best_weights: dict[str, Tensor] | None = None

    def seed(self, seed: int) -> None:
        """Fix the order of the rows."""
        self.generator.manual_seed(seed)
        self._begin()

    def run(self, epochs: int, patience: int | None) -> Iterator[Record]:
        """Train epoch by epoch, yielding each record after it."""
        for epoch in range(len(self.history.records) + 1, epochs + 1):
            if self._out_of_patience(patience):
                break
            record = self._epoch(epoch, epochs)
            self.history.records.append(record)
            self.history.seconds += record["seconds"]
            self._remember(record)
            yield record
        self._out_of_patience(patience)
        self._put_best_back()

    def _out_of_patience(self, patience: int | None) -> bool:
        """Whether the validation ELBO has not risen for `patience` epochs."""
        waited = len(self.history.records) - self.history.best_epoch
        self.history.stopped_early = patience is not None and waited >= patience
        return self.history.stopped_early

    def _begin(self) -> None:
        """Stand before the first batch of an epoch."""
        self.order = self.generator.get_state()  # the epoch's order of rows, and its redrawn bits
        self.batches_done = self.skipped = 0
        self.losses: list[Tensor] = []
        self.counts: list[int] = []
        self.norms: list[Tensor] = []
        self.elapsed = 0.0  # seconds of this epoch, before an interruption

    def _epoch(self, epoch: int, epochs: int) -> Record:
        start = time.perf_counter() - self.elapsed
        kl_weight = min(1.0, epoch / (self.kl_warmup + 1))
        self.story.train()
        self.guide.train()
        batches = math.ceil(len(self.rows) / self.batch_size)
        self.generator.set_state(self.order)  # batches that are done are drawn again, and left out
        drawn = self.rows.batches(self.batch_size, generator=self.generator, shuffle=True)
        for batch in islice(drawn, self.batches_done, None):
            done = (epoch - 1 + self.batches_done / batches) / epochs
            self.optimiser.param_groups[0]["lr"] = self.lr * self.schedule(done)
            loss = self._step(
                batch, kl_weight, f"epoch {epoch}, step {self.batches_done + 1} of {batches}"
            )
            self.batches_done += 1
            self.elapsed = time.perf_counter() - start
            self.after_step()
            if self.on_step_end is not None:
                self.on_step_end(epoch, self.batches_done, float(loss))
        record = self._record(epoch, kl_weight, time.perf_counter() - start)
        self._begin()
        return record

    def _step(self, batch: TensorDict, kl_weight: float, when: str) -> Tensor:
        """One step of the optimiser; none where the loss or its gradient is not finite."""
        kept = [b.clone() for b in self.loss_of.buffers()] if self.max_skips else []
        loss = self.loss_of(batch, kl_weight)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = self._gradient_norm()
        if torch.isfinite(loss + norm):
            self.optimiser.step()
            self.losses.append(loss.detach())
            self.counts.append(num_rows_of(batch))
            self.norms.append(norm)
            return loss.detach()
        for buffer, before in zip(self.loss_of.buffers(), kept, strict=False):
            buffer.copy_(before)
        self.skipped += 1
        if self.skipped + sum(r.get("skipped", 0) for r in self.history.records) > self.max_skips:
            blame(self.loss_of, self.rows, when, bool(torch.isfinite(loss)))
        return loss.detach()

    def _gradient_norm(self) -> Tensor:
        """Norm of the gradient of all parameters, which is shortened to `clip_norm` if one is asked for."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        return norm

    def _record(self, epoch: int, kl_weight: float, seconds: float) -> Record:
        if not self.losses:
            blame(self.loss_of, self.rows, f"every step of epoch {epoch}", False)
        counts = torch.tensor(self.counts)
        share = counts.to(self.losses[0]) / int(counts.sum())
        mean_loss = float((torch.stack(self.losses) * share).sum())
        plain = (
            -mean_loss
            if kl_weight == 1.0 and self.loss_of.is_elbo
            else self._elbo(self.rows.head(min(1000, len(self.rows))))
        )
        return {
            "epoch": epoch,
            "loss": mean_loss,
            "elbo": plain,
            "val_elbo": None if self.val is None else self._elbo(self.val),
            "gradient_norm": float(torch.stack(self.norms).mean()),
            "skipped": self.skipped,
            "seconds": seconds,
            "rows_per_second": len(self.rows) / seconds,
        }

    def _elbo(self, rows: Rows) -> float:
        """Plain ELBO with one particle and the same noise at every epoch, in nats per row."""
        self.story.eval()
        self.guide.eval()
        batch = batch_for(self.story, rows)
        total = 0.0
        with torch.no_grad(), seeded(0, self.story):
            for piece in row_chunks(batch):
                scores = score(self.story, self.guide, piece, 1)
                shared = scores.log_shared.sum() * num_rows_of(piece) / len(rows)
                total += float(scores.log_weights.sum() + shared)
        return total / len(rows)

    def _remember(self, record: Record) -> None:
        if self.val is None:
            self.history.best_epoch = record["epoch"]
        elif record["val_elbo"] > self.best_elbo:
            self.best_elbo, self.history.best_epoch = record["val_elbo"], record["epoch"]
            weights = self.loss_of.state_dict()
            self.best_weights = {k: v.detach().clone() for k, v in weights.items()}

    def _put_best_back(self) -> None:
        if self.best_weights is not None:
            self.loss_of.load_state_dict(self.best_weights)

    def state(self) -> dict[str, Any]:
        """All that an exact continuation needs beside the weights."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "records": self.history.records,
            "seconds": self.history.seconds,
            "best_epoch": self.history.best_epoch,
            "best_elbo": self.best_elbo,
            "best_weights": self.best_weights,
            "objective": self.loss_of.own_state(),
            "order": self.order,
            "noise": torch.get_rng_state(),
            "device_noise": torch.cuda.get_rng_state(self.rows.device) if self._on_cuda else None,
            "under_way": {
                "batches": self.batches_done,
                "losses": self.losses,
                "counts": self.counts,
                "norms": self.norms,
                "skipped": self.skipped,
                "elapsed": self.elapsed,
            },
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from a checkpoint's state; None starts afresh."""
        if state is None:
            return
        self.optimiser.load_state_dict(state["optimiser"])
        self.history = History(state["records"], state["seconds"], state["best_epoch"])
        self.best_elbo, self.best_weights = state["best_elbo"], state["best_weights"]
        self.loss_of.load_state_dict(state.get("objective", {}), strict=False)
        self.generator.set_state(state["order"])
        self._begin()
        if "under_way" in state:  # folders of earlier versions hold ends of epochs only
            self._take_up(state["under_way"])
        torch.set_rng_state(state["noise"])
        if self._on_cuda and state.get("device_noise") is not None:
            torch.cuda.set_rng_state(state["device_noise"], self.rows.device)

    def _take_up(self, state: dict[str, Any]) -> None:
        """Stand in the middle of an epoch."""
        where = self.rows.device
        self.batches_done, self.counts = state["batches"], state["counts"]
        self.losses = [loss.to(where) for loss in state["losses"]]
        self.norms = [norm.to(where) for norm in state["norms"]]
        self.skipped, self.elapsed = state["skipped"], state["elapsed"]

    @property
    def _on_cuda(self) -> bool:
        return self.rows.device.type == "cuda"
