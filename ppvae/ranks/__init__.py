r"""Several processes at one task, and batches in parts.

Reading order: `part` (which rows), `noise` (the same draws, however a batch is cut), `processes` (what torchrun started),
`sharing` (work on many rows, by all of them), `adding` (gradients, step after step).
"""

__all__ = [
    "Adder",
    "Part",
    "PartNoise",
    "agreed",
    "all_of",
    "alone",
    "answering",
    "by_first",
    "drawing",
    "each",
    "is_first",
    "joined",
    "noise_state",
    "num_ranks",
    "of_first",
    "over_parts",
    "own_device",
    "own_part",
    "parts_of",
    "rank",
    "set_noise_state",
    "summed",
    "told",
    "wait",
]

from ppvae.ranks.adding import Adder
from ppvae.ranks.noise import PartNoise, drawing, noise_state, set_noise_state
from ppvae.ranks.part import Part, parts_of
from ppvae.ranks.processes import (
    agreed,
    all_of,
    alone,
    answering,
    is_first,
    joined,
    num_ranks,
    of_first,
    own_device,
    own_part,
    rank,
    summed,
    told,
    wait,
)
from ppvae.ranks.sharing import by_first, each, over_parts
