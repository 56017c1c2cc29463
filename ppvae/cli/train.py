r"""The commands that train: `compare` and `fit`."""

__all__ = ["compare", "fit"]

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import ppvae
from ppvae.cli.options import (
    Data,
    MeasureBeside,
    Output,
    Rows,
    Spread,
    Story,
    Train,
    TrainBeside,
    Words,
    as_train_config,
)
from ppvae.cli.output import TYPED, is_main_process, say, show
from ppvae.cli.resolve import print_notes, resolve

if TYPE_CHECKING:
    from ppvae.runs import RunConfig
    from ppvae.storage.run_folder import RunPath

NUM_SUGGESTED = 3  # guides to compare where none is named

RunDir = Annotated[
    Path | None, Parameter(help="Folder of the results, new or empty; else one under runs/.")
]
Resume = Annotated[bool, Parameter(help="Go on with what is in --run-dir.")]
Guides = Annotated[
    Words,
    Parameter(
        help="NAME[:OPTION=VALUE...] each, as in mean_field iaf:hidden=[64,64]; else three "
        "that suit the story."
    ),
]
Decoder = Annotated[
    Literal["shared", "own"], Parameter(help="One trained story for all guides, or one each.")
]
Family = Annotated[
    str | None,
    Parameter(
        help="NAME[:OPTION=VALUE...], as in iaf:hidden=[64,64], see `ppvae list guides`; else "
        "one that suits the story."
    ),
]


def compare(
    story: Story,
    *,
    guides: Guides = (),
    decoder: Decoder = "shared",
    rows: Rows = 100,
    run_dir: RunDir = None,
    resume: Resume = False,
    given: Data = Data(),
    train: TrainBeside = TrainBeside(),
    evidence: MeasureBeside = MeasureBeside(),
    spread: Spread = Spread(),
    output: Output = Output(),
) -> None:
    """Train several guides on one story, and say in nats what each loses, and why."""
    from ppvae.gaps import check_request
    from ppvae.viz.summary import headline

    _check_resume(resume, run_dir)
    built = resolve(story, given, list(dict.fromkeys(guides)), train, suggested=NUM_SUGGESTED)
    config = as_train_config(train, simulates=built.simulates, progress=output.shows_progress)
    path = run_dir or _new_folder(story, built.config.data, "compare")
    data = built.data
    check_request(built.story, evidence, ppvae.data.to_batch(built.story, data.test, 2))
    with _resumable(path), spread.executor() as executor:
        league = ppvae.compare(
            built.story, built.guides, data.train, val=data.val, test=data.test, rows=rows,
            train=config, evidence=evidence.replace(progress=output.shows_progress),
            decoder=decoder, run_dir=_run_path(path, built.config), resume=resume,
            executor=executor,
        )  # fmt: skip
    if not is_main_process():
        return
    print_notes(built)
    _write_league(
        path, league, data.test, rows, f"Guides for the story {story} on {data.train.name}"
    )
    show(league, output)
    say(*headline(league), f"report: {path / 'report.html'}", output=output)


def fit(
    story: Story,
    *,
    guide: Family = None,
    run_dir: RunDir = None,
    resume: Resume = False,
    tensorboard: Annotated[bool, Parameter(help="Write curves for TensorBoard.")] = False,
    given: Data = Data(),
    train: Train = Train(),
    output: Output = Output(),
) -> None:
    """Train a story with one guide; the weights go to the run folder, which other commands take."""
    _check_resume(resume, run_dir)
    built = resolve(story, given, [guide] if guide else [], train, suggested=1)
    config = as_train_config(train, simulates=built.simulates, progress=output.shows_progress)
    path = run_dir or _new_folder(story, built.config.data, "fit")
    (made,) = built.guides.values()
    with _resumable(path):
        history = ppvae.fit(
            built.story, made, built.data.train, val=built.data.val, config=config,
            callbacks=[ppvae.TensorBoard(path / "tensorboard")] if tensorboard else [],
            run_dir=_run_path(path, built.config), resume=resume,
        )  # fmt: skip
    if not is_main_process():
        return
    print_notes(built)
    ppvae.save(path, built.story, made)
    held = built.data.test
    measured = ppvae.data.preview(held)
    elbo = ppvae.elbo(built.story, made, measured, seed=train.seed).mean()
    result: dict[str, Any] = {
        "elbo": float(elbo.value), "std_error": float(elbo.std_error), "rows": len(measured),
        "best_epoch": history.best_epoch, "epochs": len(history.records),
        "seconds": history.seconds,
        "skipped_steps": sum(history.column("skipped")), "weights": str(path),
    }  # fmt: skip
    lines = [
        f"ELBO {elbo} nats per row on {len(measured)} test rows"
        + ("" if len(measured) == len(held) else f" (the first of {len(held)})")
        + f"; best epoch {history.best_epoch} of {len(history.records)}, {history.seconds:.1f} s"
    ]
    if result["skipped_steps"]:
        lines.append(f"{result['skipped_steps']} steps skipped: their loss was not finite")
    bits_of: Any = getattr(built.story, "bits_per_dimension", None)
    if bits_of is not None:  # a story of whole levels: the ELBO bounds a code length
        result["bits_per_dimension"] = float(bits_of(elbo.value))
        lines.append(f"at most {result['bits_per_dimension']:.3f} bits per dimension")
    show(result, output, *lines, f"weights: {path}")


def _check_resume(resume: bool, run_dir: Path | None) -> None:
    if resume and run_dir is None:
        raise ValueError("expected --run-dir with --resume: the folder to go on from")


def _new_folder(story: str, data: str | None, command: str) -> Path:
    """A folder under `runs` that says what was done when."""
    from ppvae.training.distributed import broadcast_object

    words = [Path(word.partition(":")[0]).stem for word in (story, data) if word]
    now = broadcast_object(datetime.now().strftime("%Y%m%d-%H%M%S"))
    return Path("runs") / "-".join([*words, command, now])


def _run_path(path: Path, config: "RunConfig") -> "RunPath":
    """A run folder that remembers what was asked for."""
    from ppvae.storage.run_folder import SETUP, RunPath

    return RunPath(path, {SETUP: config.to_dict()})


@contextmanager
def _resumable(path: Path) -> Iterator[None]:
    """Say, where a signal or the end of another process ends the block, how to go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, ConnectionError):
        print(f"what is done is kept: go on with --resume --run-dir {path}", file=sys.stderr)
        raise


def _write_league(path: Path, league: "ppvae.League", test: Any, rows: int, title: str) -> None:
    """Weights of each guide, the table and the report, beside what `compare` has kept."""
    names = ppvae.runs.safe_names(league.guides)
    for name, folder in zip(league.guides, names, strict=True):
        ppvae.save(path / ppvae.runs.WEIGHTS / folder, league.stories[name], league.guides[name])
    league.to_pandas().to_csv(path / "league.csv")
    measured = test.head(min(rows, len(test)))
    command = shlex.join(["ppvae", *(word for word in TYPED.get() if word != "--resume")])
    ppvae.report(league, measured, path=path / "report.html", title=title, command=command)
