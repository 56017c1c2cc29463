r"""The verb of training: story, guide and rows in, both trained, and what happened as a history."""

__all__ = ["Callback", "History", "fit"]

import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyro
from torch import nn

from ppvae import objectives, ranks
from ppvae.data import Rows, Stream, open_rows, preview
from ppvae.objectives import Objective
from ppvae.problem.weights import enumerated_sites
from ppvae.progress import stages
from ppvae.storage.fingerprint import fingerprint
from ppvae.story import check_data, local_params, reference_tensor, seeded
from ppvae.training import Callback, History, TrainConfig, Trainer
from ppvae.training.callbacks import Callbacks, EpochCallback
from ppvae.training.checkpointing import Checkpointing, kept_in
from ppvae.training.config import PRECISIONS, resolve_device
from ppvae.training.history import Record

# of those that each of several processes was given


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
    accumulate: int = 1,
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
    average: float = 0.0,
    max_skips: int = 0,
    config: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback | EpochCallback] = (),
    progress: bool = True,
) -> History:
    """Train story and guide together by stochastic gradient ascent on the ELBO (AEVB).

    Both are changed in place, and left in evaluation mode. Parameters with `requires_grad=False` stay: freeze the story to train the guide
    alone. With validation rows, the weights of the best epoch are put back at the end.

    Where `torch.distributed` is set up (`torchrun` and `ppvae.joined()`), all processes train one pair together: each takes its
    part of every batch, with the draws that a process alone would have made, so that the results are the same up to
    rounding, whatever the number of processes. The first process alone writes, prints and calls back.

    Arguments:
        story: The story.
        guide: A guide for it.
        data: Training rows, anything that `ppvae.data.as_rows` takes. Memory-mapped arrays (also `ppvae.data.mapped`)
            and a `DataLoader`, which keeps its own order, are read batch by batch: only their first 2,000 rows are
            looked at before, the others as they come.
        val: Validation rows, likewise.
        objective: A key of `ppvae.objectives.OBJECTIVES`, or an objective made for this story and guide. Where the guide
            leaves out discrete sites, `trace_elbo` becomes `enum_elbo`, and says so.
        objective_options: Further arguments of the named objective, such as `{"alpha": 0.5}` or `{"beta": 4.0}`.
        epochs: Passes over the rows, at most.
        batch_size: Rows a step, over all processes; a last, smaller batch is used too.
        accumulate: Pieces that each process cuts its part of a batch into, one after the other in memory; their
            gradients add up to the same step.
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
        precision: `auto` (the story's own), `float32`, `float64`, or `bfloat16`: networks under `torch.autocast`, weights and
            densities in float32; refused where the hardware would be slower.
        run_dir: Folder for config, metrics and checkpoints; must be empty or absent unless `resume`.
        resume: Go on from the newest checkpoint in `run_dir` that can be read, in the middle of an epoch too.
        checkpoint_every: Seconds between checkpoints within an epoch, beside the one at its end; 0 keeps every step.
        clip_norm: Largest norm of the gradient of all parameters; a longer one is shortened to it. None shortens only one
            that is ten times as long as the running mean, as heavy tails make it (`funnel`); `math.inf` leaves all as they are.
            The history counts the steps that were shortened.
        average: Decay of an exponential moving average of the weights (say 0.999), which is then what is validated and
            kept; 0 keeps the weights themselves.
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
        ConnectionError: If another process of the training has ended.
        SystemExit: After SIGTERM, likewise, with exit code 143; only with a run folder.
    """
    settings = TrainConfig(
        objective=objective if isinstance(objective, str) else "trace_elbo",
        objective_options=objective_options, num_particles=num_particles, epochs=epochs, batch_size=batch_size,
        accumulate=accumulate, optimizer=optimizer, lr=lr, schedule=schedule, clip_norm=clip_norm, average=average,
        kl_warmup=kl_warmup, patience=patience, max_skips=max_skips, seed=seed, device=device, precision=precision,
    )  # fmt: skip
    _check_folder(run_dir, resume, checkpoint_every)
    _check_modules(story, guide)
    if patience is not None and val is None:
        raise ValueError(f"expected validation rows (val) for patience={patience}, got val=None")
    rows, val_rows = _prepare(story, guide, open_rows(data), val, settings)
    with seeded(seed, story):  # a baseline has weights of its own
        loss_of = _objective(objective, story, guide, rows, settings)
    hooks = Callbacks(callbacks if ranks.is_first() else ())
    with ExitStack() as stack:
        for part in (local_params(story, guide, loss_of), pyro.validation_enabled(False)):
            stack.enter_context(part)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings(
            "ignore", "Encountered", UserWarning
        )  # Pyro's; `raise_nonfinite` says more
        _check_alike(loss_of, rows, settings)
        trainer = Trainer(loss_of, rows, val_rows, settings)
        trainer.on_step_end = hooks.on_step_end if hooks.parts else None
        keeper = None
        if run_dir is not None:
            told = {**(config or {}), "fit": _told(loss_of, rows, settings)}
            kept = kept_in(run_dir, told, resume)
            keeper = Checkpointing(*stack.enter_context(kept), trainer, checkpoint_every)
        stack.enter_context(seeded(seed, story))
        trainer.seed(seed)
        if keeper is not None and resume:
            keeper.resume_from_checkpoint()
        stage = stack.enter_context(stages(epochs, progress and ranks.is_first()))
        stage("training")
        for record in trainer.run():
            stage(_in_words(record))
            if keeper is not None:
                keeper.after_epoch(record)
            hooks.on_epoch_end(record)
    story.eval()
    guide.eval()
    hooks.on_train_end(trainer.history)
    return trainer.history


def _objective(
    objective: str | Objective,
    story: nn.Module,
    guide: nn.Module,
    rows: Rows | Stream,
    settings: TrainConfig,
) -> Objective:
    """The named objective, or the one given, once it is known to be made for these modules and rows."""
    options = settings.loss_options
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
    if settings.kl_warmup and not made.takes_weight:
        raise ValueError(
            f"expected kl_warmup=0 with {made.name}, got {settings.kl_warmup}: it has no KL term to weigh"
        )
    return made.to(reference_tensor(made))


def _build(
    name: str, story: nn.Module, guide: nn.Module, rows: Rows | Stream, options: dict[str, Any]
) -> Objective:
    """The named objective; `enum_elbo` for `trace_elbo` where discrete sites are to be summed over, which is said."""
    summed = enumerated_sites(story, guide, rows)
    if name == "trace_elbo" and summed:
        name = "enum_elbo"
        if ranks.is_first():
            said = f"objective enum_elbo in place of trace_elbo: {', '.join(summed)} summed over exactly"
            print(said, file=sys.stderr)
    return objectives.build(name, story, guide, rows, **options)


def _prepare(
    story: nn.Module, guide: nn.Module, rows: Rows | Stream, val: Any, settings: TrainConfig
) -> tuple[Rows | Stream, Rows | Stream | None]:
    """Bring modules and rows to one device and precision, and check that they fit."""
    where = resolve_device(settings.device)
    dtype = PRECISIONS[settings.precision] or reference_tensor(story).dtype
    for module in (story, guide):
        module.to(device=where, dtype=dtype)
    rows = rows.to(device=where, dtype=dtype)
    val_rows = None if val is None else open_rows(val).to(device=where, dtype=dtype)
    for part in filter(None, (rows, val_rows)):
        check_data(story, preview(part).binarize_once(seed=0).tensors)
    return rows, val_rows


def _told(loss_of: Objective, rows: Rows | Stream, settings: TrainConfig) -> dict[str, Any]:
    """What `config.json` says of a training; all of it must be the same where it goes on, but for the epochs."""
    own = str(reference_tensor(loss_of.story).dtype)
    return settings.told() | {
        "objective": loss_of.name,
        "objective_options": loss_of.options,
        "precision": settings.precision if settings.precision == "bfloat16" else own,
        "data": rows.name,
        "rows": len(rows),
        "contents of the rows": fingerprint(preview(rows).tensors)[:12],
    }


def _check_folder(run_dir: str | Path | None, resume: bool, checkpoint_every: float) -> None:
    if not checkpoint_every >= 0:
        raise ValueError(f"expected checkpoint_every of at least 0 seconds, got {checkpoint_every}")
    if resume and (run_dir is None or not Path(run_dir).expanduser().is_dir()):
        raise ValueError(
            f"expected the folder of a run to go on from, got run_dir={run_dir}; to begin one, leave out resume (--resume)"
        )


def _check_modules(story: Any, guide: Any) -> None:
    for what, module in {"story": story, "guide": guide}.items():
        if isinstance(module, type):
            raise ValueError(
                f"expected a {what}, got the class {module.__name__}; make one: {module.__name__}(...)"
            )


def _check_alike(loss_of: Objective, rows: Rows | Stream, settings: TrainConfig) -> None:
    """Refuse processes that were given different settings or rows: each would train as if the others had its own."""
    if ranks.num_ranks() == 1:
        return
    first, *others = ranks.all_of(_told(loss_of, rows, settings))
    for number, other in enumerate(others, 1):
        for name, value in other.items():
            if value != first[name]:
                raise ValueError(
                    f"expected the same settings and all rows in every process, got {name} {first[name]!r} in "
                    f"process 0 and {value!r} in process {number}"
                )


def _in_words(record: Record) -> str:
    validation = "" if record["val_elbo"] is None else f", validation {record['val_elbo']:.2f}"
    return f"ELBO {record['elbo']:.2f}{validation} nats per row"
