r"""Does a run survive `kill -9` at any moment, and end as if nothing had happened?

`ppvae fit` or `ppvae compare` on a small story is killed at random moments, while it starts,
trains, measures or writes, and typed again with `--resume`. After each kill, what the process had
done is held against what its folder kept; each finished run is held, file by file, against one that
was left alone. What is killed is a fork of a process that has imported all, so that a kill costs no
start. Linux, with OMP_NUM_THREADS=1.

Arguments: fit or compare, kills, seed, a folder to work in; none for both, 50 kills each, kept with
the results.
"""

import io
import json
import math
import mmap
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # a fork would lose it

import ppvae.config
from ppvae.cli import main as ppvae_main
from ppvae.config import EvidenceConfig
from ppvae.storage.checkpoints import CHECKPOINT
from ppvae.storage.files import UNFINISHED
from ppvae.storage.results import ResultsFile
from ppvae.training.checkpointing import Checkpointing

RESULTS = Path(__file__).parent / "results" / "kills.json"
COMMON = "factor_analysis --data simulated:rows=60 --set latent_dim=2 --batch-size 12 --device cpu"
COMMON += " --run-dir run --checkpoint-every 0 --no-progress"
COMMANDS = {
    "fit": f"fit {COMMON} --guide full_rank --epochs 6",
    "compare": f"compare {COMMON} --guides mean_field full_rank:hidden=[8] --epochs 3 --rows 6 "
    "--evidence.num-particles 100",
}
SPANS = {"fit": 0.5, "compare": 0.4}  # kills come within this share of an undisturbed run's time
KILLS_OF_A_RUN = 7  # then it may end
PIECE, SEARCH_STEPS = (
    2,
    40,
)  # rows measured at a time, and steps to q*: small, so that there is much to kill
CLOCK = ("seconds", "rows_per_second")
PARTS = ("run", "story", "mean_field", "full_rank-hidden-8")  # of what is trained or measured


class Done:
    """What a child has done, before it was kept: steps and rows of each part, in memory that
    outlives it.
    """

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 16 * len(PARTS))
        self.numbers = memoryview(self.memory).cast("q")

    def tell(self, kind: int, part: str, number: int) -> None:
        """Of kind 0, steps of training; 1, rows measured."""
        self.numbers[2 * PARTS.index(part) + kind] = number

    def now(self) -> list[int]:
        """By part, steps and rows."""
        return list(self.numbers)


def watch(done: Done) -> None:
    """Let the package tell what is done before it begins to keep it, and make its pieces small."""
    keep_step, keep_rows = Checkpointing.on_step_end, ResultsFile.write

    def on_step_end(self: Checkpointing, epoch: int, step: int, loss: float) -> None:
        assert self.folder is not None
        done.tell(0, self.folder.path.name, (epoch - 1) * self.trainer.steps_per_epoch + step)
        keep_step(self, epoch, step, loss)

    def write(self: Any, results: dict[str, torch.Tensor]) -> None:
        done.tell(1, self.file.stem, len(next(iter(results.values()))))
        keep_rows(self, results)

    Checkpointing.on_step_end, ResultsFile.write = on_step_end, write  # type: ignore[method-assign]
    few = partial(EvidenceConfig, rows_per_piece=PIECE, local_steps=SEARCH_STEPS)
    ppvae.config.EvidenceConfig = few  # type: ignore[assignment, misc]


def kept(run: Path) -> list[int]:
    """By part, steps of the newest checkpoint and rows in the file of the measurement."""
    numbers = []
    for part in PARTS:
        place = run if part == "run" else run / "trainings" / part
        found = [CHECKPOINT.fullmatch(p.name) for p in (place / "checkpoints").glob("epoch*")]
        steps = [_steps_of_an_epoch(place) * int(m[1]) + int(m[2] or 0) for m in found if m]
        numbers += [max(steps, default=0), _rows_in(run / "measured" / f"{part}.safetensors")]
    return numbers


def _steps_of_an_epoch(run: Path) -> int:
    told = json.loads((run / "config.json").read_text())["fit"]
    return math.ceil(told["rows"] / told["batch_size"])


def _rows_in(file: Path) -> int:
    if not file.exists():
        return 0
    with safe_open(file, "pt") as content:
        return len(content.get_tensor(next(iter(content.keys()))))


def child(work: Path, command: str) -> int:
    """Start the command, or let it go on, in a fork of this process, which is told its number."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        os.chdir(work)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        warnings.filterwarnings("error", "checkpoint .* cannot be read")
        code = ppvae_main([*command.split(), *(["--resume"] if Path("run").exists() else [])])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def results(run: Path) -> dict[str, Any]:
    """All that a run leaves, by file, but for seconds and dates, and for files that a kill left
    half written.
    """
    found: dict[str, Any] = {}
    for file in sorted(run.rglob("*")):
        name = file.relative_to(run).as_posix()
        if UNFINISHED in name:
            continue
        if file.suffix in (".safetensors", ".png") and "checkpoints" not in file.parts:
            found[name] = file.read_bytes()
        elif file.name == "metrics.jsonl":
            records = map(json.loads, file.read_text().splitlines())
            found[name] = [{k: v for k, v in r.items() if k not in CLOCK} for r in records]
        elif file.name == "league.csv":
            found[name] = [line.rpartition(",")[0] for line in file.read_text().splitlines()]
        elif file.name == "report.html":
            page = re.sub(r'(data-head="seconds"[^>]*>)[^<]*', r"\1", file.read_text())
            found[name] = re.sub(r"(training time|written)</td><td>[^<]*", r"\1", page)
    return found


def main(verb: str, kills: int = 50, seed: int = 0, place: str | None = None) -> dict[str, Any]:
    """Kill a run so often.

    Returns:
        How often, how many runs that made, how many kills fell into the writing of a checkpoint,
        and how many steps and rows were lost at most.

    Raises:
        AssertionError: If a kill cost more than a step or a piece of the rows, a folder could not
            be resumed, or a run ended otherwise than one that was left alone.
    """
    torch.set_num_threads(1)
    work, draw, done = Path(tempfile.mkdtemp(dir=place)), random.Random(seed), Done()
    watch(done)
    start = time.perf_counter()
    expected = _alone(work, verb)
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, (
        f"{threads} threads, which a fork loses: set OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES="
    )
    forked = time.perf_counter()
    _finish(work, verb)
    whole = time.perf_counter() - forked
    told = {
        "verb": verb,
        "seed": seed,
        "seconds_undisturbed": round(whole, 2),
        "files": len(expected),
    }
    counts = {"kills": 0, "runs": 0, "in_a_write": 0, "steps_lost": 0, "rows_lost": 0}
    while counts["kills"] < kills:
        shutil.rmtree(work / "run")
        for _ in range(KILLS_OF_A_RUN):
            if counts["kills"] < kills and not _killed(work, verb, done, counts, draw, whole):
                break
        _finish(work, verb)
        counts["runs"] += 1
        found = results(work / "run")
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        other = [name for name, value in expected.items() if found[name] != value]
        assert not other, f"run {counts['runs']} ended otherwise in {other}"
    shutil.rmtree(work)
    return {**told, **counts, "seconds": round(time.perf_counter() - start, 1)}


def _killed(
    work: Path, verb: str, done: Done, counts: dict[str, int], draw: random.Random, whole: float
) -> bool:
    """Let the run go on, kill it at some moment, and look at what is left; False if it came to its
    end before.
    """
    before = kept(work / "run")
    for place, number in enumerate(before):
        done.numbers[place] = number
    stale = set((work / "run").rglob(f"{UNFINISHED}*"))
    number = child(work, COMMANDS[verb])
    time.sleep(draw.uniform(0, SPANS[verb] * whole))
    os.kill(number, signal.SIGKILL)
    _, status = os.waitpid(number, 0)
    if not os.WIFSIGNALED(status):
        assert status == 0, (work / "log").read_text()
        return False
    counts["kills"] += 1
    counts["in_a_write"] += bool(set((work / "run").rglob(f"{UNFINISHED}*")) - stale)
    after = kept(work / "run")
    assert all(b >= a for a, b in zip(before, after, strict=True)), (before, after)
    lost = [d - a for d, a in zip(done.now(), after, strict=True)]
    assert all(0 <= n <= 1 for n in lost[::2]) and all(0 <= n <= PIECE for n in lost[1::2]), lost
    counts["steps_lost"] = max(counts["steps_lost"], *lost[::2])
    counts["rows_lost"] = max(counts["rows_lost"], *lost[1::2])
    return True


def _alone(work: Path, verb: str) -> dict[str, Any]:
    """What a run that nobody disturbs leaves; in this process, which thereby imports all that a run
    needs.
    """
    before = Path.cwd()
    os.chdir(work)
    with redirect_stdout(io.StringIO()):
        assert ppvae_main(COMMANDS[verb].split()) == 0
    os.chdir(before)
    found = results(work / "run")
    shutil.rmtree(work / "run")
    return found


def _finish(work: Path, verb: str) -> None:
    _, status = os.waitpid(child(work, COMMANDS[verb]), 0)
    assert status == 0, f"the run cannot go on: {(work / 'log').read_text()}"


def both() -> None:
    """Fit and compare, each in a process of its own."""
    found = []
    for verb in COMMANDS:
        typed = [sys.executable, __file__, verb]
        found.append(json.loads(subprocess.run(typed, check=True, stdout=subprocess.PIPE).stdout))
        print(found[-1])
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:]:
        verb, *rest = sys.argv[1:]
        print(json.dumps(main(verb, *map(int, rest[:2]), *rest[2:3]), indent=1))
    else:
        both()
