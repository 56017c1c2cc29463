r"""Rows per second of one process against two, each pinned to a core of its own: `python
benchmarks/processes.py [mnist|digits]`.

MNIST size (784-200-200-50). A process of two takes as many rows a step as the process that is
alone. Prints a table and writes `benchmarks/results/processes.json`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES, EPOCHS = (100, 500), 5  # rows of a step and process
RESULTS = Path(__file__).parent / "results" / "processes.json"
JOB = """
import json, os, sys
import torch, ppvae
from ppvae.training.distributed import is_main_process, process_group, world_size
from ppvae.stories import load as load_story
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[int(os.environ.get("LOCAL_RANK", 0)) % len(cores)]})
torch.set_num_threads(1)
with process_group():
    torch.manual_seed(0)
    train = ppvae.data.load(sys.argv[1]).head(20_000)
    story = load_story("vae", train.head(100).batch())
    guide = ppvae.guides.build("mean_field", story, train)
    size = int(sys.argv[2]) * world_size()
    options = {"epochs": int(sys.argv[3]), "batch_size": size, "progress": False}
    history = ppvae.fit(story, guide, train, **options)
    if is_main_process():
        print(json.dumps(max(history.column("rows_per_second"))))
"""


def rows_per_second(data: str, size: int, processes: int) -> float:
    """Of the best epoch."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.py"
        job.write_text(JOB)
        start = [sys.executable]
        if processes > 1:
            start += [
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={processes}",
            ]
        path = os.pathsep.join(
            [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        )
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        typed = [*start, str(job), data, str(size), str(EPOCHS)]
        done = subprocess.run(typed, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def main(data: str = "mnist") -> None:
    """Measure three times each, in turns, and keep the best."""
    lines = []
    print("rows a step and process  rows/s alone  rows/s of one of two  share")
    for size in SIZES:
        alone = together = 0.0
        for _ in range(3):
            alone = max(alone, rows_per_second(data, size, 1))
            together = max(together, rows_per_second(data, size, 2) / 2)
        print(f"{size:23d}  {alone:12,.0f}  {together:20,.0f}  {together / alone:5.2f}")
        lines.append({"rows_a_step": size, "alone": alone, "one_of_two": together})
    told = {"data": data, "epochs": EPOCHS, "rows_per_second": lines}
    RESULTS.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
