r"""Epochs of stochastic gradient ascent, their validation, and the state that a checkpoint must hold."""

__all__ = ["OPTIMIZERS", "SCHEDULES", "History", "Record", "Trainer"]

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.chunks import row_chunks
from ppvae.data import Rows
from ppvae.objectives import Objective
from ppvae.story import LogJoint, measuring, num_rows_of, seeded, sites_of
from ppvae.weights import batch_for, draw, score

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
            ELBO, nats per row, higher is better; None without validation rows), `seconds`, `rows_per_second`.
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
    ) -> None:
        self.story, self.guide, self.rows, self.val = story, guide, rows, val
        self.loss_of, self.batch_size, self.kl_warmup = loss_of, batch_size, kl_warmup
        self.lr, self.schedule = lr, schedule
        parameters = [p for p in loss_of.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("expected a parameter to train, got a story and a guide all frozen")
        self.optimiser = OPTIMIZERS[optimizer](parameters, lr=lr)
        self.generator = torch.Generator()
        self.history = History()
        self.best_elbo = -float("inf")
        self.best_weights: dict[str, Tensor] | None = None

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

    def _epoch(self, epoch: int, epochs: int) -> Record:
        start = time.perf_counter()
        kl_weight = min(1.0, epoch / (self.kl_warmup + 1))
        self.story.train()
        self.guide.train()
        losses: list[Tensor] = []
        counts: list[int] = []
        steps = math.ceil(len(self.rows) / self.batch_size)
        for batch in self.rows.batches(self.batch_size, generator=self.generator, shuffle=True):
            loss = self.loss_of(batch, kl_weight)
            done = (epoch - 1 + len(losses) / steps) / epochs
            self.optimiser.param_groups[0]["lr"] = self.lr * self.schedule(done)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if not torch.isfinite(loss):
                _blame(self.story, self.guide, self.rows, epoch)
            self.optimiser.step()
            losses.append(loss.detach())
            counts.append(num_rows_of(batch))
        share = torch.tensor(counts).to(losses[0]) / len(self.rows)
        mean_loss = float((torch.stack(losses) * share).sum())
        seconds = time.perf_counter() - start
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
            "order": self.generator.get_state(),
            "noise": torch.get_rng_state(),
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
        torch.set_rng_state(state["noise"])


def _blame(story: nn.Module, guide: nn.Module, rows: Rows, epoch: int) -> None:
    """Say at which sites and rows the loss stopped being finite, from one pass over all rows."""
    found: dict[str, list[int]] = {}
    batch, start = batch_for(story, rows), 0
    sites = sites_of(story, batch)
    for piece in row_chunks(batch):
        with torch.no_grad(), measuring(0, story, guide):
            drawn = draw(guide, piece, 1, sites)
            scored = LogJoint(story, piece, sites).by_site(drawn.values)
        for who, parts in (("story", scored), ("guide", drawn.by_site)):
            for site, log_prob in parts.items():
                bad = (~torch.isfinite(log_prob[0])).nonzero().flatten()
                found.setdefault(f"the {who}'s site '{site}'", []).extend((start + bad).tolist())
        start += num_rows_of(piece)
    culprits = [f"{name} in rows {bad[:5]}" for name, bad in found.items() if bad]
    raise ValueError(
        f"expected a finite loss, got NaN or infinity in epoch {epoch}"
        + (f": the density of {'; of '.join(culprits)}" if culprits else "")
        + "; try a smaller lr, rescaled data, or a likelihood whose scale is bounded below"
    )
