r"""The training loop: one torch optimiser over story and guide, rows in memory, validation, early stopping."""

__all__ = ["Callback", "History", "check_options", "fit", "resolve_device"]

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import nn

from ppvae import objectives
from ppvae.callbacks import Callback, Callbacks, EpochCallback
from ppvae.data import Rows, as_rows
from ppvae.interrupts import Interrupts
from ppvae.keeping import Keeper, same_settings
from ppvae.lock import locked
from ppvae.objectives import Objective
from ppvae.progress import stages
from ppvae.runs import RunFolder
from ppvae.story import check_data, local_params, one_tensor_of, seeded
from ppvae.trainer import OPTIMIZERS, SCHEDULES, History, Record, Trainer
from ppvae.weights import summed_sites

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def fit(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    val: Any = None,
    objective: str | Objective = "trace_elbo",
    objective_options: Mapping[str, Any] | None = None,
    epochs: int = 100,
    batch_size: int = 100,
    optimizer: str = "adam",
    lr: float = 1e-3,
    schedule: str = "tail",
    num_particles: int = 1,
    kl_warmup: int = 0,
    patience: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    run_dir: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: float = 60.0,
    clip_norm: float | None = None,
    max_skips: int = 0,
    config: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback | EpochCallback] = (),
    progress: bool = True,
) -> History:
    """Train story and guide together by stochastic gradient ascent on the ELBO (AEVB).

    Both are changed in place, and left in evaluation mode. Parameters with `requires_grad=False` stay: freeze the story to train the guide
    alone. With validation rows, the weights of the best epoch are put back at the end.

    Arguments:
        story: The story.
        guide: A guide for it.
        data: Training rows, anything that `ppvae.data.as_rows` takes.
        val: Validation rows, likewise.
        objective: A key of `ppvae.objectives.OBJECTIVES`, or an objective made for this story and guide. Where the guide
            leaves out discrete sites, `trace_elbo` becomes `enum_elbo`, and says so.
        objective_options: Further arguments of the named objective, such as `{"alpha": 0.5}` or `{"beta": 4.0}`.
        epochs: Passes over the rows, at most.
        batch_size: Rows a step; a last, smaller batch is used too.
        optimizer: `adam`, `sgd`, `rmsprop` or `adagrad`, one over all parameters.
        lr: Its step size; plain `sgd` wants one of its own.
        schedule: How it changes: `tail` falls to 0 over the last quarter of the epochs, which takes the noise out
            of the result; `cosine` falls throughout; `constant`.
        num_particles: Particles of each row and step.
        kl_warmup: Epochs over which the weight of the latent sites' terms grows linearly to 1; the reported ELBO
            is the plain one throughout.
        patience: Stop after so many epochs without a better validation ELBO; None never stops.
        seed: Seed of the data order and of all draws.
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ...
        precision: `auto` (the story's own), `float32` or `float64`.
        run_dir: Folder for config, metrics and checkpoints; must be empty or absent unless `resume`.
        resume: Go on from the newest checkpoint in `run_dir` that can be read, in the middle of an epoch too.
        checkpoint_every: Seconds between checkpoints within an epoch, beside the one at its end; 0 keeps every step.
        clip_norm: Largest norm of the gradient of all parameters; a longer one is shortened to it. None never is.
        max_skips: Steps, over the whole run, that may be left out because their loss or gradient is not finite.
        config: What else `config.json` in `run_dir` is to say, anything that JSON holds.
        callbacks: Functions of each epoch's record, or objects with the hooks of `Callback`.
        progress: Show a progress bar on a terminal.

    Returns:
        The history.

    Raises:
        ValueError: If story, guide, data or an option do not fit, or the loss stops being finite (which rows and
            sites is said), or another process trains in `run_dir`.
        KeyboardInterrupt: After Ctrl-C; with a run folder once the step is done and a checkpoint written (a second
            Ctrl-C does not wait).
        SystemExit: After SIGTERM, likewise, with exit code 143; only with a run folder.
    """
    named = objective if isinstance(objective, str) else "trace_elbo"
    check_options(
        objective=named, objective_options=objective_options, epochs=epochs, batch_size=batch_size,
        optimizer=optimizer, lr=lr, schedule=schedule, seed=seed, num_particles=num_particles,
        kl_warmup=kl_warmup, patience=patience, val=val, device=device,
        checkpoint_every=checkpoint_every, clip_norm=clip_norm, max_skips=max_skips,
    )  # fmt: skip
    if resume and (run_dir is None or not Path(run_dir).expanduser().is_dir()):
        raise ValueError(f"expected the folder of a run to go on from, got run_dir={run_dir}")
    rows, val_rows = _prepare(story, guide, as_rows(data), val, device, precision)
    options = {"num_particles": num_particles, **(objective_options or {})}
    with seeded(seed, story):  # a baseline has weights of its own
        loss_of = _objective(objective, story, guide, rows, options, kl_warmup)
    trainer = Trainer(
        story,
        guide,
        rows,
        val_rows,
        loss_of,
        batch_size,
        lr,
        SCHEDULES[schedule],
        kl_warmup,
        optimizer,
        clip_norm,
        max_skips,
    )
    settings = {
        "objective": loss_of.name, "objective_options": loss_of.options, "epochs": epochs, "batch_size": batch_size,
        "optimizer": optimizer, "lr": lr, "schedule": schedule, "seed": seed, "kl_warmup": kl_warmup, "patience": patience,
        "clip_norm": clip_norm, "precision": str(one_tensor_of(story).dtype), "rows": len(rows), "data": rows.name,
    }  # fmt: skip
    hooks = Callbacks(callbacks)
    if hooks.parts:
        trainer.on_step_end = hooks.on_step_end
    with ExitStack() as stack:
        for part in (local_params(story, guide, loss_of), pyro.validation_enabled(False)):
            stack.enter_context(part)
        keeper = None
        if run_dir is not None:
            path = Path(run_dir).expanduser()
            stack.enter_context(locked(path))
            folder = RunFolder.create(path, {**(config or {}), "fit": settings}, resume=resume)
            same_settings(folder.config.get("fit", settings), settings)
            held = stack.enter_context(Interrupts())
            modules = {"story": story, "guide": guide}
            keeper = Keeper(folder, modules, trainer, checkpoint_every, held)
            trainer.after_step = keeper.after_step
        stack.enter_context(seeded(seed, story))
        trainer.seed(seed)
        if keeper is not None and resume:
            keeper.take_up()
        stage = stack.enter_context(stages(epochs, progress))
        stage("training")
        for record in trainer.run(epochs, patience):
            stage(_in_words(record))
            if keeper is not None:
                keeper.after_epoch(record)
            hooks.on_epoch_end(record)
    story.eval()
    guide.eval()
    hooks.on_train_end(trainer.history)
    return trainer.history


def check_options(
    *,
    objective: str = "trace_elbo",
    objective_options: Mapping[str, Any] | None = None,
    epochs: int = 1,
    batch_size: int = 1,
    optimizer: str = "adam",
    lr: float = 1e-3,
    schedule: str = "tail",
    seed: int = 0,
    num_particles: int = 1,
    kl_warmup: int = 0,
    patience: int | None = None,
    val: Any = None,
    device: str = "auto",
    checkpoint_every: float = 0.0,
    clip_norm: float | None = None,
    max_skips: int = 0,
) -> None:
    """Refuse training options that cannot work; arguments as in `fit`.

    Raises:
        ValueError: Naming the option, what was expected and what came.
    """
    objectives.check_request(objective, objective_options or {})
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"expected an optimizer among {', '.join(OPTIMIZERS)}; got '{optimizer}'")
    if schedule not in SCHEDULES:
        raise ValueError(f"expected a schedule among {', '.join(SCHEDULES)}; got '{schedule}'")
    counts = {"epochs": epochs, "batch_size": batch_size, "num_particles": num_particles}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"expected {name} of at least 1, got {value}")
    if not lr > 0:
        raise ValueError(f"expected a positive lr, got {lr}")
    if not isinstance(seed, int):
        raise ValueError(f"expected an integer seed, got {seed!r}")
    if kl_warmup < 0:
        raise ValueError(f"expected kl_warmup of at least 0 epochs, got {kl_warmup}")
    for name, least in {"checkpoint_every": checkpoint_every, "max_skips": max_skips}.items():
        if not least >= 0:
            raise ValueError(f"expected {name} of at least 0, got {least}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"expected a positive clip_norm, got {clip_norm}")
    if patience is not None and (patience < 1 or val is None):
        raise ValueError(
            f"expected patience of at least 1 together with validation rows, got patience={patience}"
            + (" and val=None" if val is None else "")
        )
    resolve_device(device)


def _objective(
    objective: str | Objective,
    story: nn.Module,
    guide: nn.Module,
    rows: Rows,
    options: dict[str, Any],
    kl_warmup: int,
) -> Objective:
    """The named objective, or the one given, once it is known to be made for these modules and rows."""
    if isinstance(objective, str):
        made = _build(objective, story, guide, rows, options)
    else:
        made = objective
        if made.story is not story or made.guide is not guide or made.num_rows != len(rows):
            raise ValueError(
                f"expected an objective made for this story, this guide and {len(rows)} rows, got one for other modules "
                f"or {made.num_rows} rows; make it with ppvae.objectives.build(name, story, guide, data)"
            )
        if options != {"num_particles": 1}:
            raise ValueError(
                f"expected no options beside an objective that is made already, got {options}; give them when it is made"
            )
    if kl_warmup and not made.takes_weight:
        raise ValueError(
            f"expected kl_warmup=0 with {made.name}, got {kl_warmup}: it has no KL term to weigh"
        )
    return made.to(one_tensor_of(made))


def _build(
    name: str, story: nn.Module, guide: nn.Module, rows: Rows, options: dict[str, Any]
) -> Objective:
    """The named objective; `enum_elbo` for `trace_elbo` where discrete sites are to be summed over, which is said."""
    summed = summed_sites(story, guide, rows)
    if name == "trace_elbo" and summed:
        name = "enum_elbo"
        said = f"objective enum_elbo in place of trace_elbo: {summed} summed over exactly"
        print(said, file=sys.stderr)
    return objectives.build(name, story, guide, rows, **options)


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
        raise ValueError(
            "expected a CUDA device for device='cuda', got a machine or torch build without CUDA; "
            "use device='cpu'"
        )
    return found


def _in_words(record: Record) -> str:
    validation = "" if record["val_elbo"] is None else f", validation {record['val_elbo']:.2f}"
    return f"ELBO {record['elbo']:.2f}{validation} nats per row"
