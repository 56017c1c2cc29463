r"""Data sets, arrays and files, as rows in memory or as streams of rows.

Reading order: `rows` (what everything else takes), `columns` and `convert` (arrays, frames, dicts,
torch data sets → rows), `splits` (which rows are train, valid, test), `reading` and `files` (files
read without trusting them), `images` (readers of the named sets), `binarize` (grey values → bits),
`named` (the table of names, and `load`), `request` (a data set and what is hidden of it, in one
line). For data larger than memory: `stream` (the interface), `mapped` and `loader`. For models:
`batch` (rows on a story's device), `chunks` (pieces that fit in memory).
"""

__all__ = [
    "DATASETS",
    "SIMULATED",
    "Request",
    "Rows",
    "Stream",
    "as_rows",
    "iter_chunks",
    "load",
    "load_request",
    "mapped",
    "open_rows",
    "parse_request",
    "preview",
    "reference_tensor",
    "to_batch",
]

from .batch import iter_chunks, reference_tensor, to_batch
from .convert import as_rows, open_rows, preview
from .mapped import mapped
from .named import DATASETS, load
from .request import SIMULATED, Request, load_request, parse_request
from .rows import Rows
from .stream import Stream
