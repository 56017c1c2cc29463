r"""Data sets, arrays and files, as rows in memory or as streams of rows.

Reading order: `rows` (the record that everything else takes, with its `checks`), `collect` (arrays,
dicts, torch data sets → rows), `splits` (which rows are train, valid, test), `arrays` and `idx`
(file formats read without trusting them), `files` (a user's own file), `images` (the readers of the
named sets), `binarize` (grey values to bits), `sources` (the table of names and `load`),
`request` (a data set and what is to be hidden of it, in one line). For data larger than memory:
`stream` (the interface), `mapped` and `loaded` (files and loaders), `opening` (which of all these).
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
from .collect import as_rows
from .mapped import mapped
from .open import open_rows, preview
from .request import SIMULATED, Request, load_request, parse_request
from .rows import Rows
from .sources import DATASETS, load
from .stream import Stream
