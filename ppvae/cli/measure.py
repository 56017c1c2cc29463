r"""The commands that measure a guide: `gaps`, `evidence`, `diagnose`, `estimators`."""

__all__ = ["diagnose", "estimators", "evidence", "gaps"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import ppvae
from ppvae.cli.options import (
    Figure,
    Measure,
    MeasureEach,
    Rows,
    Seed,
    Spread,
    Story,
    Subject,
    Words,
    parse_named,
)
from ppvae.cli.output import check_path, save_figure, save_table, show
from ppvae.cli.resolve import Pair, pair

if TYPE_CHECKING:
    from torch import Tensor

Checkpoint = Annotated[
    Path | None,
    Parameter(help="File that keeps the rows that are done; the same command goes on from it."),
]
Table = Annotated[Path | None, Parameter(help="Save the table as .csv.")]
Methods = Annotated[
    Words, Parameter(help="exact, iwae, ais, quadrature, several of them, or all that suit.")
]
Objectives = Annotated[
    Words,
    Parameter(
        help="NAME[:OPTION=VALUE...] each, as in iwae score_function:baseline=none; else the "
        "usual ones."
    ),
]
Against = Annotated[
    str | None,
    Parameter(
        help="Hold the rows of the figure against `class`, or a column of the data; else the "
        "reconstruction error."
    ),
]


def gaps(
    story: Story,
    *,
    rows: Rows = 100,
    evidence: Measure = Measure(),
    checkpoint: Checkpoint = None,
    spread: Spread = Spread(),
    subject: Subject = Subject(),
) -> None:
    """Measure what one guide loses: approximation gap and amortization gap."""
    from ppvae.gaps import check_request

    chosen = pair(story, subject)
    test = chosen.test(rows)
    config = evidence.replace(progress=subject.output.shows_progress)
    check_request(chosen.built.story, config, ppvae.data.to_batch(chosen.built.story, test, 2))
    chosen.ready()
    with spread.executor() as executor:
        found = ppvae.gaps(
            *chosen.modules, test, config=config, checkpoint=checkpoint, executor=executor
        )
    show(found, subject.output)


def evidence(
    story: Story,
    *,
    method: Methods = ("ais",),
    rows: Rows = 100,
    evidence: MeasureEach = MeasureEach(),
    checkpoint: Checkpoint = None,
    spread: Spread = Spread(),
    subject: Subject = Subject(),
) -> None:
    """Measure log p(x), the evidence, on test rows, by one method or several side by side."""
    chosen = pair(story, subject)
    test = chosen.test(rows)
    config = evidence.replace(progress=subject.output.shows_progress)
    few = ppvae.data.to_batch(chosen.built.story, test, 2)
    problem = ppvae.problem.Problem.of(*chosen.modules, few)
    methods = (
        ppvae.inference.methods_for(problem) if "all" in method else list(dict.fromkeys(method))
    )
    ppvae.inference.check_methods(methods, problem, config)
    chosen.ready()
    with spread.executor() as executor:
        table = ppvae.inference.evidence_table(
            *chosen.modules, test, methods, config=config, checkpoint=checkpoint, executor=executor
        )
    show(table, subject.output)


def diagnose(
    story: Story,
    *,
    rows: Rows = 300,
    num_particles: Annotated[int, Parameter(help="Particles of each row behind k-hat.")] = 1000,
    num_simulations: Annotated[int, Parameter(help="Rows simulated for calibration.")] = 1000,
    reference_rows: Annotated[int, Parameter(help="Rows to hold against reference chains.")] = 0,
    figure: Figure = None,
    against: Against = None,
    table: Table = None,
    seed: Seed = 0,
    subject: Subject = Subject(),
) -> None:
    """Tell whether a guide is the story's posterior, on which rows not, and what to try next."""
    check_path("--figure", figure)
    check_path("--table", table, (".csv",))
    chosen = pair(story, subject)
    test = chosen.test(rows)
    covariate = None if against is None else _column(against, chosen, len(test))
    chosen.ready()
    found = ppvae.diagnostics.diagnose(
        *chosen.modules, test,
        num_particles=num_particles, num_simulations=num_simulations,
        reference_rows=reference_rows, seed=seed,
    )  # fmt: skip
    show(found, subject.output)
    save_table(table, found.by_row, subject.output)
    save_figure(figure, found, subject.output, against=covariate, label=against)


def estimators(
    story: Story,
    *,
    objectives: Objectives = (),
    rows: Rows = 100,
    num_particles: Annotated[int, Parameter(help="Particles of each row.")] = 10,
    num_repeats: Annotated[int, Parameter(help="Gradients drawn with each estimator.")] = 200,
    figure: Figure = None,
    table: Table = None,
    seed: Seed = 0,
    subject: Subject = Subject(),
) -> None:
    """Compare gradient estimators on test rows: bias, variance, signal-to-noise ratio, time."""
    check_path("--figure", figure)
    check_path("--table", table, (".csv",))
    labels = objectives or ppvae.objectives.bench.DEFAULT_OBJECTIVES
    wanted = {label: parse_named(label) for label in labels}
    for name, options in wanted.values():
        ppvae.objectives.check_request(name, options)
    chosen = pair(story, subject)
    test = chosen.test(rows)
    chosen.ready()
    made = {
        label: ppvae.objectives.build(
            name, *chosen.modules, test, **{"num_particles": num_particles, **options}
        )
        for label, (name, options) in wanted.items()
    }
    found = ppvae.estimator_bench(
        *chosen.modules, test, made,
        num_particles=num_particles, num_repeats=num_repeats, seed=seed,
        progress=subject.output.shows_progress,
    )  # fmt: skip
    show(found, subject.output)
    save_table(table, found, subject.output)
    save_figure(figure, found, subject.output)


def _column(name: str, chosen: Pair, num_rows: int) -> "Tensor":
    """A number, or the class, of each of the first test rows, `(B,)`.

    Raises:
        ValueError: If the data have none of that name, or more than one number a row.
    """
    config, rows = chosen.built.config, chosen.test(num_rows)
    labels = name == "class" and config.data in ppvae.data.DATASETS
    if labels and config.data is not None:
        rows = ppvae.data.load(config.data, split="test", root=config.data_root, labels=True)
        name = "y"
    single = {k: v for k, v in rows.tensors.items() if v.dim() == 1}
    if name not in single:
        known = sorted(single) or "none"
        raise ValueError(
            f"expected one number a row to hold the rows against, got '{name}'; the data have "
            f"{known}"
        )
    values: Any = single[name][:num_rows]
    return values.long() if labels else values
