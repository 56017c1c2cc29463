r"""The command that compares gradient estimators."""

__all__ = ["estimators"]

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


def estimators(
    story: Story,
    data: Data = None,
    guide: Guide = None,
    objectives: Annotated[
        list[str] | None,
        Option(
            "--objectives",
            metavar="NAME...",
            help="Objectives to compare, with options as score_function:baseline=none.",
        ),
    ] = None,
    weights: Weights = None,
    rows: Rows = 100,
    particles: Particles = 10,
    repeats: Annotated[
        int, Option("--repeats", min=2, help="Gradients drawn with each estimator.")
    ] = 200,
    figure: Annotated[
        Path | None, Option("--figure", help="Where to save the figure (.png, .pdf, .svg).")
    ] = None,
    table: Annotated[Path | None, Option("--table", help="Where to save the table (.csv).")] = None,
    epochs: Epochs = 10,
    batch_size: BatchSize = 100,
    lr: LearningRate = 1e-3,
    seed: Seed = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    binarize: Binarize = None,
    options: Set = None,
    no_progress: Quiet = False,
) -> None:
    """Compare gradient estimators on test rows: bias, variance, signal-to-noise ratio, time."""
    import ppvae
    from ppvae.cli import setup as parts
    from ppvae.objectives import check_request
    from ppvae.objectives.bench import DEFAULT_OBJECTIVES
    from ppvae.training import distributed
    from ppvae.viz.tables import show

    for path, suffixes in ((figure, (".png", ".pdf", ".svg")), (table, (".csv",))):
        if path is not None and (path.suffix not in suffixes or not path.parent.is_dir()):
            raise ValueError(
                f"expected a file that ends in {', '.join(suffixes)}, in a folder that exists, got '{path}'"
            )
    labels = [n for part in objectives or () for n in part.split(",") if n] or DEFAULT_OBJECTIVES
    wanted = {label: parts.parse_named(label) for label in labels}
    for name, chosen in wanted.values():
        check_request(name, chosen)
    setup = parts.prepare(
        story, data, [guide], data_root=data_root, binarize=binarize, options=options,
        seed=seed, device=device,
    )  # fmt: skip
    shows_progress = sys.stdout.isatty() and not no_progress
    built = parts.trained(
        setup, weights, seed, device,
        epochs=epochs, batch_size=batch_size, lr=lr, progress=shows_progress,
    )  # fmt: skip
    measured = setup.test.head(min(rows, len(setup.test)))
    made = {
        label: ppvae.objectives.build(
            name, setup.story, built, measured, **{"num_particles": particles, **chosen}
        )
        for label, (name, chosen) in wanted.items()
    }
    found = ppvae.estimator_bench(
        setup.story, built, measured, made,
        num_particles=particles, num_repeats=repeats, seed=seed, progress=shows_progress,
    )  # fmt: skip
    out = parts.console(setup)
    show(found)
    if not distributed.is_main_process():
        return
    if table is not None:
        table.write_text(found.to_pandas().to_csv())
    if figure is not None:
        found.plot().savefig(figure, dpi=160)
        out.print(f"figure: {figure}", highlight=False, soft_wrap=True)
