r"""Does log p(x) by importance sampling fit in memory, whatever the rows and particles, and is its
time linear in both?

784 pixels, network 784-200-200-50 untrained (its cost is that of a trained one), one thread. Every
case runs in a process of its own, whose peak memory is read off before and after. Arguments: rows
and particles of the largest case.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

import ppvae
from ppvae.stories import load as load_story

SEED, PIXELS = 0, 784
RESULTS = Path(__file__).parent.parent / "examples" / "results" / "iwae_memory.json"


def cases(rows: int, particles: int) -> list[tuple[int, int, int]]:
    """Rows, particles, and steps of the search for q*."""
    few, some = rows // 20, max(1, particles // 20)
    by_rows = [(few * factor, some, 0) for factor in (1, 2, 4)]
    by_particles = [(few, some * factor, 0) for factor in (2, 4)]
    return [*by_rows, *by_particles, (few, some, 50), (rows, some, 0), (rows, particles, 0)]


def one(rows: int, particles: int, local_steps: int) -> dict[str, float]:
    """Seconds and memory of one case in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    x = (torch.rand(rows, PIXELS) < 0.15).float()
    story = load_story("vae", {"x": x[:2]})
    guide = ppvae.guides.build("mean_field", story, x[:100])
    few = {"method": "iwae", "guide": guide, "local_steps": local_steps}
    ppvae.log_evidence(story, x[:2], num_particles=2, **few)  # what is loaded once
    before, start, clock = _peak(), time.process_time(), time.perf_counter()
    found = ppvae.log_evidence(story, x, num_particles=particles, seed=SEED, **few)
    return {
        "rows": rows, "particles": particles, "local_steps": local_steps,
        "cpu_seconds": round(time.process_time() - start, 2),
        "seconds": round(time.perf_counter() - clock, 2),
        "megabytes_before": round(before), "megabytes_above": round(_peak() - before),
        "log_p": round(float(found.value.mean()), 3),
    }  # fmt: skip


def _peak() -> float:
    """The most memory that this process has held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(rows: int = 10_000, particles: int = 5000) -> list[dict[str, float]]:
    """Every case that the results lack, each in a fresh process."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    done = {(c["rows"], c["particles"], c["local_steps"]) for c in found}
    for case in cases(rows, particles):
        if case not in done:
            command = [sys.executable, __file__, "case", *map(str, case)]
            shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append(json.loads(shown.splitlines()[-1]))
            RESULTS.write_text(json.dumps(found, indent=1))
    for c in found:
        million = 1e6 * c["cpu_seconds"] / (c["rows"] * c["particles"])
        print(
            f"{c['rows']:>6} rows {c['particles']:>5} particles {c['local_steps']:>4} steps to q*: "
            f"{c['megabytes_above']:>6.0f} MB above the data, {c['cpu_seconds']:>8.1f} s, "
            f"{million:6.1f} s a million weights"
        )
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["case"]:
        print(json.dumps(one(*map(int, sys.argv[2:]))))
    else:
        main(*map(int, sys.argv[1:]))
