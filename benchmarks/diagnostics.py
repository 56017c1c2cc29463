r"""What do the diagnostics of a trained digits VAE cost: seconds of SBC, memory of the k-hat map?

SBC of 1000 simulations, and k-hat, loss and direction of 10,000 rows (the digits, repeated) with
1000 particles each. Peak memory is the whole process's, in a process of its own, less what it held
when it began to measure. Writes `benchmarks/results/diagnostics.json` and prints one table.
"""

import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

import ppvae
from ppvae.diagnostics import by_row, diagnose, sbc
from ppvae.stories import load as load_story
from ppvae.story import seeded

SEED, EPOCHS = 0, 100
SIMULATIONS, ROWS, PARTICLES = 1000, 10_000, 1000
RESULTS = Path(__file__).parent / "results" / "diagnostics.json"
BARS = {
    "sbc": "1000 simulations: < 60 s",
    "by_row": "10,000 rows, 1000 particles: < 2 GB",
    "diagnose": "all of them, 250 rows",
}


def pair(epochs: int) -> tuple[Any, Any, Any]:
    """Story and guide, trained, and the test rows."""
    train, test = (ppvae.data.load("digits", split=s) for s in ("train", "test"))
    with seeded(SEED):
        story = load_story("vae", train.batch(slice(100)))
        guide = ppvae.guides.build("mean_field", story, train)
    ppvae.fit(story, guide, train, epochs=epochs, seed=SEED, progress=False)
    return story, guide, test.batch()["x"]


def measure(
    what: str, epochs: int, simulations: int, rows: int, particles: int
) -> dict[str, float]:
    """Seconds, and peak memory above the start in GB."""
    story, guide, x = pair(epochs)
    many = {"x": x.repeat(-(-rows // len(x)), 1)[:rows]}
    before, start = _peak(), time.perf_counter()
    if what == "sbc":
        sbc(story, guide, {"x": x}, num_simulations=simulations, seed=SEED)
    elif what == "by_row":
        by_row(story, guide, many, num_particles=particles, seed=SEED)
    else:
        diagnose(story, guide, {"x": x}, num_simulations=simulations, seed=SEED)
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 1),
        "peak_gb": round(_peak(), 2),
        "start_gb": round(before, 2),
    }


def _peak() -> float:
    """The most memory that this process has held, in GB (Linux: kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main(
    epochs: int = EPOCHS,
    simulations: int = SIMULATIONS,
    rows: int = ROWS,
    particles: int = PARTICLES,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Measure each in a fresh process, one after the other."""
    found: dict[str, Any] = {
        "seed": SEED,
        "epochs": epochs,
        "simulations": simulations,
        "rows": rows,
        "particles": particles,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    for what in BARS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[what] = pool.apply(measure, (what, epochs, simulations, rows, particles))
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(found, indent=1))
    return found


def table(found: dict[str, Any]) -> str:
    """One line each."""
    lines = [f"{'':<10}{'seconds':>8}{'peak GB':>9}{'at start':>9}   what, and its bar"]
    for what, bar in BARS.items():
        one = found[what]
        lines.append(
            f"{what:<10}{one['seconds']:>8}{one['peak_gb']:>9}{one['start_gb']:>9}   {bar}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(*map(int, sys.argv[1:]))))
