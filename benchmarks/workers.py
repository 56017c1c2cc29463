r"""Seconds of `gaps` here, with one worker process and with two; the numbers must be equal.

Arguments: rows, 400 by default. Run it on a quiet machine; the start of the workers counts.
"""

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from typing import Any

import torch

import ppvae

SEED, ROWS, ROWS_PER_PIECE = 0, 400, 50


def main(rows: int = ROWS) -> None:
    """Print the seconds of each."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    data = ppvae.data.load("digits")
    story = ppvae.stories.load("vae", data.batch(), latent_dim=10, hidden=(200, 200))
    guide = ppvae.guides.build("mean_field", story, data)
    ppvae.fit(story, guide, data, epochs=3, progress=False)
    config = ppvae.EvidenceConfig(num_simulated=0, rows_per_piece=ROWS_PER_PIECE)
    here = None
    for num_workers in (0, 1, 2):
        start = time.perf_counter()
        pool: Any = nullcontext()
        if num_workers:
            pool = ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"))
        with pool as executor:
            found = ppvae.gaps(story, guide, data.head(rows), config=config, executor=executor)
        here = here or found
        equal = torch.equal(found.elbo.value, here.elbo.value)
        print(f"{num_workers} workers: {time.perf_counter() - start:.1f} s, equal: {equal}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
