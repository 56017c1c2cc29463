r"""Does training go through a file four times larger than the memory that is left to it?

Writes a file of bits, 784 a row, trains the VAE of the gallery on a few rows to have torch's own
memory taken, then limits what the process may take beyond to a quarter of the file: its address
space (`RLIMIT_AS`, which counts mappings too) and its data (`RLIMIT_DATA`). Reading the whole file
must then fail, and an epoch with validation go through. Prints one line of JSON; memory in MB
beyond what was taken before the limit.
"""

import argparse
import json
import re
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ppvae
from ppvae.stories import load as load_story
from ppvae.story import seeded
from ppvae.training import Callback

SEED, BATCH_SIZE, WIDTH = 0, 500, 784
MB = 2**20
LIMITS = {"VmSize": resource.RLIMIT_AS, "VmData": resource.RLIMIT_DATA}


def held(what: str) -> float:
    """A line of the process's status in MB: VmSize, VmData, RssAnon, VmHWM."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, what
    return int(found.group(1)) / 1024


def write(path: Path, megabytes: int, dtype: str, every: int) -> None:
    """Bits, with a share of ink of each row's own; other rows than each `every`-th stay zero."""
    draw = np.random.default_rng(SEED)
    rows = megabytes * MB // (WIDTH * np.dtype(dtype).itemsize)
    array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), (rows, WIDTH))
    for start in range(0, rows, 1000 * every):
        drawn = array[start : start + 1000 * every : every]
        inked = draw.random((len(drawn), 1), np.float32)
        drawn[:] = draw.random(drawn.shape, np.float32) < inked
    array.flush()


class Watch(Callback):
    """Peak of the anonymous memory, looked at after each step."""

    peak = 0.0

    def on_step_end(self, epoch: int, step: int, loss: float) -> None:
        self.peak = max(self.peak, held("RssAnon"))


def refused(path: Path) -> str:
    """What is said where the file is to be loaded whole."""
    try:
        ppvae.data.load(path, split="all")
    except (ValueError, MemoryError, RuntimeError) as error:
        return str(error)
    raise AssertionError("the limit did not bite: the whole file was loaded")


def main(
    folder: Path, megabytes: int, dtype: str, every: int, mapping: bool, hidden: int
) -> dict[str, Any]:
    torch.set_num_threads(1)
    path = folder / "rows.npy"
    write(path, megabytes, dtype, every)
    few = torch.rand(4 * BATCH_SIZE, WIDTH).bernoulli()
    options: dict[str, Any] = {"epochs": 1, "batch_size": BATCH_SIZE, "progress": False}
    with seeded(SEED):
        story = load_story("vae", {"x": few}, hidden=(hidden, hidden))
        guide = ppvae.guides.build("mean_field", story, few, hidden=(hidden, hidden))
    ppvae.fit(story, guide, few, val=few, **options)
    # A mapping is part of the address space, so that only the data can be limited beside one.
    names = ["VmData"] if mapping else list(LIMITS)
    for name in names:
        limit = int((held(name) + megabytes / 4) * MB)
        resource.setrlimit(LIMITS[name], (limit, limit))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak, which writing the file made
    before = {name: held(name) for name in ("RssAnon", "VmHWM")}
    said = refused(path)
    train: Any = np.load(path, mmap_mode="r") if mapping else ppvae.data.mapped(path)
    val = ppvae.data.mapped(path, split="valid")
    watch, start = Watch(), time.perf_counter()
    history = ppvae.fit(story, guide, train, val=val, callbacks=[watch], **options)
    record = history.records[0]
    return {
        "rows": len(train),
        "dtype": dtype,
        "file": megabytes,
        "limit": megabytes / 4,
        "limits": names,
        "anonymous": round(watch.peak - before["RssAnon"], 1),
        "peak": round(held("VmHWM") - before["VmHWM"], 1),
        "val_elbo": round(record["val_elbo"], 2),
        "seconds": round(time.perf_counter() - start, 1),
        "rows_per_second": round(record["rows_per_second"]),
        "whole": said,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024, help="Size of the file.")
    parser.add_argument("--dtype", default="uint8", help="Of the file's numbers.")
    parser.add_argument("--every", type=int, default=1, help="Only every so many rows is not zero.")
    parser.add_argument("--mapping", action="store_true", help="Train from an np.memmap.")
    parser.add_argument("--hidden", type=int, default=200, help="Width of the networks.")
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(main(Path(place), **vars(parser.parse_args()))))
