r"""Training: story, guide and rows in, both trained, and what happened as a history."""

__all__ = ["build_objective", "check_config", "fit", "move_to_device"]

import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyro
from torch import nn

from ppvae.config import TrainConfig
from ppvae.data import Rows, Stream, open_rows, preview
from ppvae.objectives import OBJECTIVES, Objective, check_request
from ppvae.problem import Problem
from ppvae.progress import stages
from ppvae.storage.fingerprint import fingerprint
from ppvae.storage.run_folder import open_run_folder
from ppvae.story import local_params, reference_tensor, seeded
from ppvae.training.bfloat16 import check_bfloat16
from ppvae.training.callbacks import Callback, EpochCallback, as_callbacks
from ppvae.training.checkpointing import Checkpointing
from ppvae.training.devices import PRECISIONS, resolve_device
from ppvae.training.distributed import (
    all_gather_object,
    init_process_group,
    is_main_process,
    on_main_process,
    rank,
)
from ppvae.training.early_stopping import EarlyStopping
from ppvae.training.ema import ExponentialMovingAverage
from ppvae.training.history import History, Record
from ppvae.training.signals import DeferredSignals
from ppvae.training.trainer import Trainer

# What a resumed run need not repeat, and what is recorded as it was understood.
FREE = ("device", "max_skips", "checkpoint_every", "progress", "num_particles")


def fit(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    val: Any = None,
    config: TrainConfig | None = None,
    callbacks: Sequence[Callback | EpochCallback] = (),
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **fields: Any,
) -> History:
    """Train story and guide together by stochastic gradient ascent on the ELBO (AEVB).

    Both are changed in place, and left in evaluation mode. Parameters with `requires_grad=False`
    stay: freeze the story to train the guide alone. With validation rows, the weights of the best
    epoch are put back at the end.

    Under torchrun all processes train one pair together with torch's DistributedDataParallel:
    `torch.distributed` is set up here, every process is given the same settings and all rows, takes
    its part of every batch, and draws its own noise (from `seed` plus its rank). The main process
    alone validates, writes, prints and calls back.

    Arguments:
        story: The story.
        guide: A guide for it.
        data: Training rows, anything that `ppvae.data.as_rows` takes. Memory-mapped arrays (also
            `ppvae.data.mapped`) and a `DataLoader`, which keeps its own order, are read batch by
            batch: only their first 2,000 rows are looked at before, the others as they come.
        val: Validation rows, likewise.
        config: How to train; None for the defaults of `TrainConfig`.
        callbacks: Functions of each epoch's record, or objects with the hooks of `Callback`.
        run_dir: Folder for config, metrics and checkpoints; must be empty or absent unless
            `resume`. A `RunPath` adds notes to its `config.json`.
        resume: Go on from the newest checkpoint in `run_dir` that can be read, in the middle of an
            epoch too, and with another number of processes.
        fields: Fields of `TrainConfig`, which take the place of those of `config`, such as
            `epochs=20`. `objective` may also be an objective that was made for this story, guide
            and data. Where the guide leaves out discrete sites, `trace_elbo` becomes `enum_elbo`,
            and says so.

    Returns:
        The history.

    Raises:
        ValueError: If story, guide, data or a setting do not fit, or the loss stops being finite
            (which rows and sites is said), or another process trains in `run_dir`.
        KeyboardInterrupt: After Ctrl-C; with a run folder once the step is done and a checkpoint
            written (a second Ctrl-C does not wait).
        ConnectionError: If another process of the training has ended.
        SystemExit: After SIGTERM, likewise, with exit code 143; only with a run folder.
    """
    given = fields.pop("objective") if isinstance(fields.get("objective"), Objective) else None
    config = (config or TrainConfig()).replace(**fields)
    check_config(config)
    if config.patience is not None and val is None:
        raise ValueError(
            f"expected validation rows (val) for patience={config.patience}, got val=None"
        )
    if resume and (run_dir is None or not Path(run_dir).expanduser().is_dir()):
        path = None if run_dir is None else os.fspath(run_dir)
        raise ValueError(
            f"expected the folder of a run to go on from, got run_dir={path}; to begin one, leave "
            "out resume (--resume)"
        )
    own_callbacks = as_callbacks(callbacks)
    init_process_group()
    move_to_device(story, guide, config)
    like = reference_tensor(story)
    rows = open_rows(data).to(device=like.device, dtype=like.dtype)
    loss_of = _objective(given, story, guide, rows, config)
    val_rows = None
    if val is not None:
        val_rows = open_rows(val).to(device=like.device, dtype=like.dtype)
        loss_of.problem.with_rows(preview(val_rows))  # checks their values
    settings = _settings(loss_of, rows, config)
    _check_alike(settings)
    signals = DeferredSignals()
    with ExitStack() as stack:
        stack.enter_context(local_params(story, guide, loss_of))
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(warnings.catch_warnings())
        # Pyro's, of which `raise_nonfinite` says more; torch's, where a first step is skipped.
        warnings.filterwarnings("ignore", "Encountered|Detected call", UserWarning)
        warnings.filterwarnings("ignore", ".broadcast_buffers. is deprecated", FutureWarning)
        all_callbacks: list[Callback] = []
        if config.ema_decay:
            all_callbacks.append(ExponentialMovingAverage(config.ema_decay))
        all_callbacks.append(EarlyStopping(config.patience))
        if run_dir is not None:
            opened = open_run_folder(
                run_dir, "fit", settings, resume=resume, may_change=("epochs",)
            )
            folder = on_main_process(lambda: stack.enter_context(opened))
            stack.enter_context(signals.defer())
            all_callbacks.append(Checkpointing(folder, signals, config.checkpoint_every, resume))
        if is_main_process():
            stage = stack.enter_context(stages(config.epochs, config.progress))
            stage("training")
            all_callbacks += as_callbacks([lambda record: stage(_in_words(record))])
            all_callbacks += own_callbacks
        trainer = Trainer(loss_of, config, rows, val_rows, all_callbacks)
        stack.enter_context(seeded(config.seed + rank(), story))
        history = trainer.fit()
    story.eval()
    guide.eval()
    return history


def check_config(config: TrainConfig) -> None:
    """Refuse an objective or a device that there is not.

    Raises:
        ValueError: What was expected, and what came.
    """
    check_request(config.objective, config.objective_options)
    device = resolve_device(config.device)
    if config.precision == "bfloat16":
        check_bfloat16(device)


def move_to_device(story: nn.Module, guide: nn.Module, config: TrainConfig) -> None:
    """Bring story and guide to the device and precision that they are trained in."""
    for what, module in {"story": story, "guide": guide}.items():
        if isinstance(module, type):
            raise ValueError(
                f"expected a {what}, got the class {module.__name__}; make one: "
                f"{module.__name__}(...)"
            )
    device = resolve_device(config.device)
    dtype = PRECISIONS[config.precision] or reference_tensor(story).dtype
    for module in (story, guide):
        module.to(device=device, dtype=dtype)


def _objective(
    given: Objective | None,
    story: nn.Module,
    guide: nn.Module,
    rows: Rows | Stream,
    config: TrainConfig,
) -> Objective:
    """The named objective, or the given one, if it is made for these modules and rows."""
    if given is None:
        loss_of = build_objective(Problem.for_training(story, guide, rows), config)
    else:
        loss_of = given
        options = {"num_particles": config.num_particles, **config.objective_options}
        if given.story is not story or given.guide is not guide or given.num_rows != len(rows):
            raise ValueError(
                f"expected an objective made for this story, this guide and {len(rows)} rows, got "
                f"one for other modules or {given.num_rows} rows; make it with "
                "ppvae.objectives.build(name, story, guide, data)"
            )
        if options != {"num_particles": 1}:
            raise ValueError(
                f"expected no options beside an objective that is made already, got {options}; "
                "give them when it is made"
            )
    if config.kl_warmup and not loss_of.takes_weight:
        raise ValueError(
            f"expected kl_warmup=0 with {loss_of.name}, got {config.kl_warmup}: it has no KL term "
            "to weigh"
        )
    return loss_of.to(reference_tensor(loss_of))


def build_objective(problem: Problem, config: TrainConfig) -> Objective:
    """The named objective; `enum_elbo` for `trace_elbo` where sites are enumerated."""
    name = config.objective
    if name == "trace_elbo" and problem.enumerated:
        name = "enum_elbo"
        if is_main_process():
            sites = ", ".join(problem.enumerated)
            said = f"objective enum_elbo in place of trace_elbo: {sites} summed over exactly"
            print(said, file=sys.stderr)
    options = {"num_particles": config.num_particles, **config.objective_options}
    with seeded(config.seed, problem.story):  # a baseline has weights of its own
        return OBJECTIVES[name](problem, **options)


def _settings(loss_of: Objective, rows: Rows | Stream, config: TrainConfig) -> dict[str, Any]:
    """What `config.json` says of a training; only the epochs may change where it goes on."""
    dtype = str(reference_tensor(loss_of.story).dtype)
    return {k: v for k, v in config.to_dict().items() if k not in FREE} | {
        "objective": loss_of.name,
        "objective_options": loss_of.options,
        "precision": config.precision if config.precision == "bfloat16" else dtype,
        "data": rows.name,
        "rows": len(rows),
        "contents of the rows": fingerprint(preview(rows).tensors)[:12],
    }


def _check_alike(settings: dict[str, Any]) -> None:
    """Refuse processes that were given different settings or rows."""
    first, *others = all_gather_object(settings)
    for number, other in enumerate(others, 1):
        for name, value in other.items():
            if value != first[name]:
                raise ValueError(
                    f"expected the same settings and all rows in every process, got {name} "
                    f"{first[name]!r} in process 0 and {value!r} in process {number}"
                )


def _in_words(record: Record) -> str:
    validation = "" if record["val_elbo"] is None else f", validation {record['val_elbo']:.2f}"
    return f"ELBO {record['elbo']:.2f}{validation} nats per row"
