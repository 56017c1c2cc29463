r"""The training loop: one torch optimiser over story and guide, rows in memory, validation, early stopping."""

__all__ = ["History", "fit"]

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from ppvae import objectives
from ppvae.data import Rows, as_rows
from ppvae.runs import RunFolder
from ppvae.story import TensorDict, check_data, local_params, one_tensor_of, seeded
from ppvae.weights import batch_for, check_pair, row_chunks, score

Record = dict[str, Any]
Callback = Callable[[Record], None]

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


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


def fit(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    val: Any = None,
    objective: str = "trace_elbo",
    epochs: int = 100,
    batch_size: int = 100,
    lr: float = 1e-3,
    num_particles: int = 1,
    kl_warmup: int = 0,
    patience: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    run_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> History:
    """Train story and guide together by stochastic gradient ascent on the ELBO (AEVB).

    Both are changed in place. Parameters with `requires_grad=False` stay: freeze the story to train the guide
    alone. With validation rows, the weights of the best epoch are put back at the end.

    Arguments:
        story: The story.
        guide: A guide for it.
        data: Training rows, anything that `ppvae.data.as_rows` takes.
        val: Validation rows, likewise.
        objective: A key of `ppvae.objectives.OBJECTIVES`.
        epochs: Passes over the rows, at most.
        batch_size: Rows a step; a last, smaller batch is used too.
        lr: Adam's step size.
        num_particles: Particles of each row and step.
        kl_warmup: Epochs over which the weight of the latent sites' terms grows linearly to 1; the reported ELBO
            is the plain one throughout.
        patience: Stop after so many epochs without a better validation ELBO; None never stops.
        seed: Seed of the data order and of all draws.
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ...
        precision: `auto` (the story's own), `float32` or `float64`.
        run_dir: Folder for config, metrics and checkpoints; must be empty or absent unless `resume`.
        resume: Go on from the newest checkpoint in `run_dir`.
        callbacks: Called with each epoch's record.
        progress: Show a progress bar on a terminal.

    Returns:
        The history.

    Raises:
        ValueError: If story, guide, data or an option do not fit, or the loss stops being finite (which rows and
            sites is said).
    """
    _check_options(epochs, batch_size, lr, num_particles, kl_warmup, patience, val)
    rows, val_rows = _prepare(story, guide, as_rows(data), val, device, precision)
    sites = check_pair(story, guide, rows.batch(slice(0, 2)))
    loss_of = objectives.build(
        objective, story, guide, num_rows=len(rows), sites=sites, num_particles=num_particles
    )
    trainer = _Trainer(story, guide, rows, val_rows, loss_of, batch_size, lr, kl_warmup)
    settings = {
        "objective": objective, "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed,
        "num_particles": num_particles, "kl_warmup": kl_warmup, "patience": patience,
        "precision": str(one_tensor_of(story).dtype), "rows": len(rows), "data": rows.name,
    }  # fmt: skip
    folder = None if run_dir is None else RunFolder.create(run_dir, {"fit": settings}, resume=resume)
    if resume and folder is None:
        raise ValueError("expected run_dir with resume=True: the folder to go on from")
    with local_params(story, guide, loss_of), pyro.validation_enabled(False), seeded(seed, story):
        trainer.generator.manual_seed(seed)
        if folder is not None and resume:
            trainer.restore(folder.load_checkpoint({"story": story, "guide": guide}))
        with _bar(epochs, progress) as advance:
            for record in trainer.run(epochs, patience):
                advance(record)
                if folder is not None:
                    folder.append_metrics(record)
                    modules = {"story": story, "guide": guide}
                    folder.save_checkpoint(record["epoch"], modules, trainer.state())
                for callback in callbacks:
                    callback(record)
    return trainer.history


class _Trainer:
    """Epochs, validation, and the state that a checkpoint must hold."""

    def __init__(
        self,
        story: nn.Module,
        guide: nn.Module,
        rows: Rows,
        val: Rows | None,
        loss_of: objectives.Objective,
        batch_size: int,
        lr: float,
        kl_warmup: int,
    ) -> None:
        self.story, self.guide, self.rows, self.val = story, guide, rows, val
        self.loss_of, self.batch_size, self.kl_warmup = loss_of, batch_size, kl_warmup
        parameters = [p for p in loss_of.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("expected a parameter to train, got a story and a guide all frozen")
        self.optimiser = torch.optim.Adam(parameters, lr=lr, fused=True)
        self.generator = torch.Generator()
        self.history = History()
        self.best_elbo = -float("inf")
        self.best_weights: dict[str, Tensor] | None = None

    def run(self, epochs: int, patience: int | None) -> Iterator[Record]:
        """Train epoch by epoch, yielding each record after it."""
        for epoch in range(len(self.history.records) + 1, epochs + 1):
            record = self._epoch(epoch)
            self.history.records.append(record)
            self.history.seconds += record["seconds"]
            self._remember(record)
            yield record
            if patience is not None and epoch - self.history.best_epoch >= patience:
                self.history.stopped_early = True
                break
        self._put_best_back()

    def _epoch(self, epoch: int) -> Record:
        start = time.perf_counter()
        kl_weight = min(1.0, epoch / (self.kl_warmup + 1))
        self.story.train()
        self.guide.train()
        losses, counts = [], []
        for batch in self.rows.batches(self.batch_size, generator=self.generator, shuffle=True):
            loss = self.loss_of(batch, kl_weight)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if not torch.isfinite(loss):
                _blame(self.story, self.guide, batch, epoch)
            self.optimiser.step()
            losses.append(loss.detach())
            counts.append(len(next(iter(batch.values()))))
        share = torch.tensor(counts).to(losses[0]) / len(self.rows)
        mean_loss = float((torch.stack(losses) * share).sum())
        seconds = time.perf_counter() - start
        plain = -mean_loss if kl_weight == 1.0 else self._elbo(self.rows.head(min(1000, len(self.rows))))
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
                total += float(scores.log_weights.sum() + scores.log_shared.sum() / len(rows) * len(
                    next(iter(piece.values()))
                ))
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
        self.generator.set_state(state["order"])
        torch.set_rng_state(state["noise"])


def _check_options(
    epochs: int,
    batch_size: int,
    lr: float,
    num_particles: int,
    kl_warmup: int,
    patience: int | None,
    val: Any,
) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("num_particles", num_particles)):
        if value < 1:
            raise ValueError(f"expected {name} of at least 1, got {value}")
    if not lr > 0:
        raise ValueError(f"expected a positive lr, got {lr}")
    if kl_warmup < 0:
        raise ValueError(f"expected kl_warmup of at least 0 epochs, got {kl_warmup}")
    if patience is not None and (patience < 1 or val is None):
        raise ValueError(
            f"expected patience of at least 1 together with validation rows, got patience={patience}"
            + (" and val=None" if val is None else "")
        )


def _prepare(
    story: nn.Module, guide: nn.Module, rows: Rows, val: Any, device: str, precision: str
) -> tuple[Rows, Rows | None]:
    """Bring modules and rows to one device and precision, and check that they fit."""
    where = resolve_device(device)
    if precision != "auto" and precision not in PRECISIONS:
        raise ValueError(
            f"expected a precision among auto, {', '.join(PRECISIONS)}; got '{precision}'"
        )
    dtype = PRECISIONS.get(precision, one_tensor_of(story).dtype)
    for module in (story, guide):
        module.to(device=where, dtype=dtype)
    rows = rows.to(device=where, dtype=dtype)
    val_rows = None if val is None else as_rows(val).to(device=where, dtype=dtype)
    for part in filter(None, (rows, val_rows)):
        check_data(story, part.frozen(seed=0).tensors)
    return rows, val_rows


def resolve_device(device: str) -> torch.device:
    """The device that a name means; `auto` is CUDA where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"expected a device such as auto, cpu or cuda, got '{device}'") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected a CUDA device for device='cuda', got a machine or torch build without CUDA; "
                         "use device='cpu'")
    return found


def _blame(story: nn.Module, guide: nn.Module, batch: TensorDict, epoch: int) -> None:
    """Say at which rows the loss stopped being finite."""
    with torch.no_grad():
        scores = score(story, guide, batch, 1)
    which = {"story": scores.log_joint, "guide": scores.log_guide}
    found = {k: (~torch.isfinite(v[0])).nonzero().flatten().tolist() for k, v in which.items()}
    culprits = "; ".join(f"log density of the {k} in rows {v[:5]} of the batch" for k, v in found.items() if v)
    raise ValueError(
        f"expected a finite loss, got NaN or infinity in epoch {epoch}"
        + (f": {culprits}" if culprits else "")
        + "; try a smaller lr, rescaled data, or a likelihood whose scale is bounded below"
    )


@contextmanager
def _bar(epochs: int, show: bool) -> Iterator[Callable[[Record], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not show) as bar:
        task = bar.add_task("training", total=epochs)

        def advance(record: Record) -> None:
            val = "" if record["val_elbo"] is None else f", validation {record['val_elbo']:.2f}"
            bar.update(task, advance=1, description=f"ELBO {record['elbo']:.2f}{val} nats per row")

        yield advance
