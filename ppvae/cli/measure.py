r"""The commands that train and measure: `compare`, `fit`, `gaps`."""

__all__ = ["compare", "fit", "gaps"]

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from typer import Context, Option

from ppvae.cli.arguments import (
    Accumulate,
    BatchSize,
    Binarize,
    Checkpoint,
    CheckpointEvery,
    ClipNorm,
    Data,
    DataRoot,
    Decoder,
    DecoderChoice,
    Device,
    Epochs,
    EvidenceChoice,
    ExponentialMovingAverage,
    Guide,
    Guides,
    KLWarmup,
    LearningRate,
    MaxSkips,
    Objective,
    ObjectiveSet,
    Optimizer,
    Particles,
    Patience,
    Precision,
    Quiet,
    Resume,
    Rows,
    RunDir,
    Schedule,
    Seed,
    Set,
    Story,
    Weights,
)

NUM_SUGGESTED = 3  # guides to compare where none is named


def compare(
    context: Context,
    story: Story,
    data: Data = None,
    guides: Guides = None,
    decoder: DecoderChoice = Decoder.SHARED,
    epochs: Epochs = 100,
    batch_size: BatchSize = 100,
    accumulate: Accumulate = 1,
    optimizer: Optimizer = "adam",
    lr: LearningRate = 1e-3,
    objective: Objective = None,
    objective_options: ObjectiveSet = None,
    kl_warmup: KLWarmup = 0,
    schedule: Schedule = "constant_then_linear",
    ema_decay: ExponentialMovingAverage = 0.0,
    patience: Patience = None,
    precision: Precision = "auto",
    clip_norm: ClipNorm = None,
    max_skips: MaxSkips = 0,
    rows: Rows = 100,
    evidence: EvidenceChoice = "auto",
    particles: Particles = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    run_dir: RunDir = None,
    resume: Resume = False,
    checkpoint_every: CheckpointEvery = 60.0,
    data_root: DataRoot = None,
    binarize: Binarize = None,
    options: Set = None,
    no_progress: Quiet = False,
) -> None:
    """Train several guides on one story, and say in nats what each loses, and why."""
    import ppvae
    from ppvae.cli import setup as parts
    from ppvae.cli.run import remember
    from ppvae.config import EvidenceConfig, TrainConfig
    from ppvae.data import to_batch
    from ppvae.gaps import check_request
    from ppvae.storage.files import write_bytes
    from ppvae.storage.league_folder import safe_names
    from ppvae.storage.run_folder import RunPath
    from ppvae.training import distributed
    from ppvae.viz.summary import headline
    from ppvae.viz.tables import show

    _check_resume(resume, run_dir)
    names: list[str | None] = [n for part in guides or () for n in part.split(",") if n]
    names = list(dict.fromkeys(names)) or [None] * NUM_SUGGESTED
    setup = parts.prepare(
        story, data, names, data_root=data_root, binarize=binarize, options=options,
        seed=seed, device=device,
    )  # fmt: skip
    measuring = EvidenceConfig(
        method=evidence, num_particles=particles, seed=seed, progress=_shows_progress(no_progress)
    )
    check_request(setup.story, measuring, to_batch(setup.story, setup.test, 2))
    training = TrainConfig(
        **parts.loss_of(setup, objective, objective_options), epochs=epochs, batch_size=batch_size,
        accumulate=accumulate, optimizer=optimizer, lr=lr, kl_warmup=kl_warmup, schedule=schedule,
        ema_decay=ema_decay, patience=patience, precision=precision, clip_norm=clip_norm, max_skips=max_skips,
        seed=seed, device=device, checkpoint_every=checkpoint_every, progress=_shows_progress(no_progress),
    )  # fmt: skip
    command = shlex.join(["ppvae", *(word for word in context.obj if word != "--resume")])
    path = parts.run_path(run_dir, story, data, "compare")
    told = remember(story, data=data, binarize=binarize, data_root=data_root, options=options)
    with _going_on(path):
        league = ppvae.compare(
            setup.story, setup.guides, setup.train, val=setup.val, test=setup.test,
            decoder=decoder.value, rows=rows, train=training, evidence=measuring,
            run_dir=RunPath(path, {"command": command, "setup": told}), resume=resume,
        )  # fmt: skip
        if distributed.is_main_process():
            for name, folder in zip(league.guides, safe_names(league.guides), strict=True):
                ppvae.save(path / "weights" / folder, league.stories[name], league.guides[name])
            write_bytes(path / "league.csv", league.to_pandas().to_csv().encode())
            measured = setup.test.head(min(rows, len(setup.test)))
            title = f"Guides for the story {story} on {setup.train.name}"
            ppvae.report(league, measured, path=path / "report.html", title=title, command=command)
    out = parts.console(setup)
    show(league)
    for sentence in headline(league):
        out.print(sentence, highlight=False)
    out.print(f"report: {path / 'report.html'}", highlight=False, soft_wrap=True)


def fit(
    story: Story,
    data: Data = None,
    guide: Guide = None,
    epochs: Epochs = 100,
    batch_size: BatchSize = 100,
    accumulate: Accumulate = 1,
    optimizer: Optimizer = "adam",
    lr: LearningRate = 1e-3,
    objective: Objective = None,
    objective_options: ObjectiveSet = None,
    particles: Particles = 1,
    kl_warmup: KLWarmup = 0,
    schedule: Schedule = "constant_then_linear",
    ema_decay: ExponentialMovingAverage = 0.0,
    patience: Patience = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    run_dir: RunDir = None,
    resume: Resume = False,
    checkpoint_every: CheckpointEvery = 60.0,
    clip_norm: ClipNorm = None,
    max_skips: MaxSkips = 0,
    tensorboard: Annotated[
        bool, Option("--tensorboard", help="Write curves for TensorBoard into the run folder.")
    ] = False,
    data_root: DataRoot = None,
    binarize: Binarize = None,
    options: Set = None,
    no_progress: Quiet = False,
) -> None:
    """Train a story with one guide; the weights go to the run folder, which other commands take."""
    import ppvae
    from ppvae.cli import setup as parts
    from ppvae.cli.run import remember
    from ppvae.data import preview
    from ppvae.storage.run_folder import RunPath
    from ppvae.training import TensorBoard, distributed

    _check_resume(resume, run_dir)
    setup = parts.prepare(
        story, data, [guide], data_root=data_root, binarize=binarize, options=options,
        seed=seed, device=device,
    )  # fmt: skip
    path = parts.run_path(run_dir, story, data, "fit")
    family, built = next(iter(setup.guides.items()))
    told = remember(
        story, data=data, guide=family, binarize=binarize, data_root=data_root, options=options
    )
    callbacks = [TensorBoard(path / "tensorboard")] if tensorboard else []
    with _going_on(path):
        history = ppvae.fit(
            setup.story, built, setup.train, val=setup.val, **parts.loss_of(setup, objective, objective_options), epochs=epochs,
            batch_size=batch_size, accumulate=accumulate, optimizer=optimizer, lr=lr, schedule=schedule, ema_decay=ema_decay,
            num_particles=particles, kl_warmup=kl_warmup, callbacks=callbacks, patience=patience, seed=seed, device=device, precision=precision,
            run_dir=RunPath(path, {"setup": told}),
            resume=resume, checkpoint_every=checkpoint_every, clip_norm=clip_norm, max_skips=max_skips,
            progress=_shows_progress(no_progress),
        )  # fmt: skip
    if distributed.is_main_process():
        ppvae.save(path, setup.story, built)
    measured = preview(setup.test)
    found = ppvae.elbo(setup.story, built, measured, seed=seed).mean()
    which = "" if len(measured) == len(setup.test) else f" (the first of {len(setup.test)})"
    out = parts.console(setup)
    skipped = sum(history.column("skipped"))
    left_out = f"; {skipped} steps left out, whose loss was not finite" if skipped else ""
    out.print(
        f"ELBO {found} nats per row on {len(measured)} test rows{which}; best epoch {history.best_epoch} of "
        f"{len(history.records)}, {history.seconds:.1f} s{left_out}",
        highlight=False,
    )
    bits_of: Any = getattr(setup.story, "bits_per_dimension", None)
    if bits_of is not None:  # a story of whole levels: the ELBO bounds a code length
        out.print(f"at most {float(bits_of(found.value)):.3f} bits per dimension", highlight=False)
    out.print(f"weights: {path}", highlight=False, soft_wrap=True)


def gaps(
    story: Story,
    data: Data = None,
    guide: Guide = None,
    weights: Weights = None,
    rows: Rows = 100,
    evidence: EvidenceChoice = "auto",
    particles: Particles = 1000,
    checkpoint: Checkpoint = None,
    epochs: Epochs = 100,
    batch_size: BatchSize = 100,
    lr: LearningRate = 1e-3,
    seed: Seed = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    binarize: Binarize = None,
    options: Set = None,
    no_progress: Quiet = False,
) -> None:
    """Measure what one guide loses: approximation gap and amortization gap."""
    import ppvae
    from ppvae.cli import setup as parts
    from ppvae.config import EvidenceConfig
    from ppvae.data import to_batch
    from ppvae.gaps import check_request

    setup = parts.prepare(
        story, data, [guide], data_root=data_root, binarize=binarize, options=options,
        seed=seed, device=device,
    )  # fmt: skip
    config = EvidenceConfig(
        method=evidence, num_particles=particles, seed=seed, progress=_shows_progress(no_progress)
    )
    check_request(setup.story, config, to_batch(setup.story, setup.test, 2))
    built = parts.trained(
        setup, weights, seed, device,
        epochs=epochs, batch_size=batch_size, lr=lr, progress=_shows_progress(no_progress),
    )  # fmt: skip
    measured = setup.test.head(min(rows, len(setup.test)))
    found = ppvae.gaps(setup.story, built, measured, config=config, checkpoint=checkpoint)
    parts.console(setup).print(str(found), highlight=False)


def _shows_progress(no_progress: bool) -> bool:
    return sys.stdout.isatty() and not no_progress


def _check_resume(resume: bool, run_dir: Path | None) -> None:
    if resume and run_dir is None:
        raise ValueError("expected --run-dir with --resume: the folder to go on from")


@contextmanager
def _going_on(path: Path) -> Iterator[None]:
    """Say, where a signal or the end of another process ends the block, how to go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, ConnectionError):
        print(f"what is done is kept: go on with --resume --run-dir {path}", file=sys.stderr)
        raise
