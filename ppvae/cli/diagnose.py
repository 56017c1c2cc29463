r"""The command that diagnoses: is the guide the story's posterior?"""

__all__ = ["diagnose"]

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from ppvae.cli.arguments import (
    BatchSize,
    Binarize,
    Data,
    DataRoot,
    Device,
    Epochs,
    Guide,
    LearningRate,
    Particles,
    Quiet,
    Rows,
    Seed,
    Set,
    Story,
    Weights,
)


def diagnose(
    story: Story,
    data: Data = None,
    guide: Guide = None,
    weights: Weights = None,
    rows: Rows = 300,
    particles: Particles = 1000,
    simulations: Annotated[
        int, Option("--simulations", min=2, help="Rows simulated for calibration.")
    ] = 1000,
    reference: Annotated[
        int, Option("--reference", min=0, help="Rows to hold against reference chains.")
    ] = 0,
    figure: Annotated[
        Path | None,
        Option("--figure", help="Where to save the page of figures (.png, .pdf, .svg)."),
    ] = None,
    against: Annotated[
        str | None,
        Option(
            "--against",
            help="Hold the rows of the figure against `class`, or a column of the data; else the reconstruction error.",
        ),
    ] = None,
    table: Annotated[
        Path | None, Option("--table", help="Where to save what was found row by row (.csv).")
    ] = None,
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
    """Tell whether a guide is the story's posterior, on which rows not, and what to try next."""
    from ppvae.cli import setup as parts
    from ppvae.diagnostics import diagnose as run
    from ppvae.stories import example_of
    from ppvae.training import distributed
    from ppvae.viz.tables import show

    for option, path, suffixes in (
        ("--figure", figure, (".png", ".pdf", ".svg")), ("--table", table, (".csv",)),
    ):  # fmt: skip
        if path is not None and path.suffix not in suffixes:
            raise ValueError(f"expected {option} to end in {', '.join(suffixes)}, got '{path}'")
    setup = parts.prepare(
        story, data, [guide], data_root=data_root, binarize=binarize, options=options,
        seed=seed, device=device,
    )  # fmt: skip
    covariate, label = None, None
    if against is not None:
        covariate, label = (
            parts.column(against, data or example_of(story), setup, data_root, rows),
            against,
        )
    shows_progress = sys.stdout.isatty() and not no_progress
    built = parts.trained(
        setup, weights, seed, device,
        epochs=epochs, batch_size=batch_size, lr=lr, progress=shows_progress,
    )  # fmt: skip
    measured = setup.test.head(min(rows, len(setup.test)))
    found = run(
        setup.story, built, measured,
        num_particles=particles, num_simulations=simulations, reference_rows=reference, seed=seed,
    )  # fmt: skip
    out = parts.console(setup)
    show(found)
    if not distributed.is_main_process():
        return
    if table is not None and found.by_row is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        found.by_row.to_pandas().to_csv(table)
        out.print(f"rows: {table}", highlight=False, soft_wrap=True)
    if figure is not None:
        figure.parent.mkdir(parents=True, exist_ok=True)
        found.plot(against=covariate, label=label).savefig(figure, dpi=160)
        out.print(f"figures: {figure}", highlight=False, soft_wrap=True)
