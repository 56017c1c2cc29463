r"""The command that measures log p(x) by several methods."""

__all__ = ["evidence"]

import sys
from typing import Annotated

from typer import Option

from ppvae.cli.arguments import (
    BatchSize,
    Binarize,
    Checkpoint,
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


def evidence(
    story: Story,
    methods: Annotated[
        list[str] | None,
        Option(
            "--method",
            metavar="NAME...",
            help="exact, iwae, ais, quadrature, several of them, or all that suit; ais by default.",
        ),
    ] = None,
    data: Data = None,
    guide: Guide = None,
    weights: Weights = None,
    rows: Rows = 100,
    particles: Particles = 1000,
    chains: Annotated[int, Option("--chains", min=2, help="Chains of ais.")] = 16,
    temperatures: Annotated[int, Option("--temperatures", min=1, help="Temperatures of ais.")] = 50,
    leapfrog: Annotated[
        int, Option("--leapfrog", min=1, help="Leapfrog steps at each temperature.")
    ] = 5,
    start: Annotated[str, Option("--start", help="Where ais starts: guide or prior.")] = "guide",
    schedule: Annotated[
        str, Option("--schedule", help="auto, linear, geometric, sigmoid or adaptive.")
    ] = "auto",
    error: Annotated[
        str, Option("--error", help="Standard error of iwae: delta or jackknife.")
    ] = "delta",
    simulated: Annotated[
        int, Option("--simulated", min=0, help="Simulated rows that certify ais; 0 for none.")
    ] = 50,
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
    """Measure log p(x), the evidence, on test rows, by one method or several side by side."""
    from ppvae.cli import setup as parts
    from ppvae.data import to_batch
    from ppvae.inference import (
        METHODS,
        Annealing,
        EvidenceConfig,
        check_methods,
        evidence_table,
        methods_for,
    )
    from ppvae.problem import Problem
    from ppvae.viz.tables import show

    names = [n for part in methods or ["ais"] for n in part.split(",") if n]
    unknown = sorted(set(names) - {*METHODS, "all"})
    if unknown:
        raise ValueError(
            f"expected evidence methods among {', '.join(METHODS)}, or all; got {unknown}"
        )
    annealing = Annealing(
        num_chains=chains, num_temperatures=temperatures, num_leapfrog=leapfrog, start=start,
        temperature_schedule=schedule,
    )  # fmt: skip
    config = EvidenceConfig(
        num_particles=particles,
        annealing=annealing,
        error=error,
        num_simulated=simulated,
        seed=seed,
    )
    setup = parts.prepare(
        story, data, [guide], data_root=data_root, binarize=binarize, options=options,
        seed=seed, device=device,
    )  # fmt: skip
    few = to_batch(setup.story, setup.test, 2)
    problem = Problem.of(setup.story, next(iter(setup.guides.values())), few)
    if "all" in names:
        names = methods_for(problem)
    names = list(dict.fromkeys(names))
    check_methods(names, problem, config)
    shows_progress = sys.stdout.isatty() and not no_progress
    built = parts.trained(
        setup, weights, seed, device,
        epochs=epochs, batch_size=batch_size, lr=lr, progress=shows_progress,
    )  # fmt: skip
    measured = setup.test.head(min(rows, len(setup.test)))
    table = evidence_table(
        setup.story, built, measured, names,
        config=config, checkpoint=checkpoint, progress=shows_progress,
    )  # fmt: skip
    parts.console(setup)
    show(table)
