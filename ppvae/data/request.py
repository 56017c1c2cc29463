r"""A data set asked for in one line: `digits:labels=100`, `mnist:rows=5000:missing=0.5`."""

__all__ = ["SIMULATED", "Request", "apply_request", "load_request", "parse_request"]

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .binarize import Binarize
from .mapped import mapped
from .named import load
from .rows import Rows
from .stream import Stream

# Rows that a story itself generates; `ppvae.stories` makes them.
SIMULATED = "simulated"
SEED = 0  # of what is hidden: the same request means the same rows

BOOLS = {"true": True, "false": False}
PARSERS: dict[str, Any] = {
    "rows": int,
    "labels": lambda text: text if text == "all" else int(text),
    "missing": float,
    "images": BOOLS.__getitem__,
    "mapped": BOOLS.__getitem__,
    "binarize": str,
}


@dataclass(frozen=True)
class Request:
    """A data set and what is to be done to it.

    Arguments:
        name: A name in `DATASETS`, the path of a file, or `simulated`.
        rows: Only the first so many training rows, and a quarter as many of each other split; None
            for all.
        labels: Whether rows carry their class `y`: None, `all`, or a number of training rows,
            evenly over the classes; the labels of all other rows are missing (NaN).
        missing: Share of the entries of `x` that are hidden at random (NaN).
        images: Whether images stay `(C, H, W)`.
        binarize: As in `load`.
        mapped: Whether a `.npy` file is read as it is needed, see `mapped`; the first so many
            `rows` fit in memory.
    """

    name: str
    rows: int | None = None
    labels: str | int | None = None
    missing: float = 0.0
    images: bool = False
    binarize: Binarize | None = None
    mapped: bool = False

    def __post_init__(self) -> None:
        if self.rows is not None and (not isinstance(self.rows, int) or self.rows < 4):
            raise ValueError(f"expected rows of at least 4, got {self.rows!r}")
        if not (self.labels in (None, "all") or (isinstance(self.labels, int) and self.labels > 0)):
            raise ValueError(f"expected labels=all or a number of rows, got {self.labels!r}")
        if not isinstance(self.missing, (int, float)) or not 0 <= self.missing < 1:
            raise ValueError(f"expected a share missing from 0 to below 1, got {self.missing!r}")
        if self.mapped and (self.labels or (self.missing and self.rows is None)):
            raise ValueError(
                "expected no labels, and nothing missing, beside mapped=true, got "
                f"labels={self.labels} and missing={self.missing}: write NaN into the file"
            )


def parse_request(text: str) -> Request:
    r"""`NAME:OPTION=VALUE:...` as a request; a name may hold colons of its own.

    Raises:
        ValueError: If a value is not one that the option takes.
    """
    options: dict[str, Any] = {}
    while True:
        rest, _, last = text.rpartition(":")
        option, equals, value = last.partition("=")
        if not (rest and equals and option in PARSERS):
            return Request(text, **options)
        try:
            options[option] = PARSERS[option](value)
        except (KeyError, ValueError) as error:
            raise ValueError(f"expected a value that '{option}' takes, got '{value}'") from error
        text = rest


def load_request(
    request: Request,
    split: str,
    *,
    binarize: Binarize | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Rows | Stream:
    """Load one split as it is asked for.

    Arguments:
        request: What is wanted.
        split: As in `load`.
        binarize: In place of the request's own.
        root: As in `load`.

    Returns:
        The rows; a stream of them where they are to be read as needed.
    """
    if request.mapped:
        how: Any = binarize or request.binarize or "none"
        stream = mapped(request.name, split=split, binarize=how)
        return stream if request.rows is None else apply_request(request, stream, split)
    rows = load(
        request.name,
        split=split,
        binarize=binarize or request.binarize,
        root=root,
        flat=not request.images,
        labels=request.labels is not None,
    )
    return apply_request(request, rows, split)


def apply_request(request: Request, rows: Rows | Stream, split: str) -> Rows:
    """Rows cut, and with labels and entries hidden, as a request says."""
    wanted = len(rows)
    if request.rows is not None:
        wanted = min(request.rows if split == "train" else max(1, request.rows // 4), len(rows))
    rows = rows.head(wanted)
    tensors = dict(rows.tensors)
    if isinstance(request.labels, int):
        tensors["y"] = _hide_labels(tensors["y"], request.labels if split == "train" else 0)
    if request.missing:
        tensors["x"] = _hide_entries(tensors["x"], request.missing)
    return Rows(tensors, dynamic=rows.dynamic, name=rows.name)


def _hide_labels(labels: Tensor, count: int) -> Tensor:
    """The first `count` labels `(N,)`, evenly over the classes; the others are missing."""
    classes = labels.unique().tolist()
    kept = torch.full_like(labels, torch.nan)
    for number, one in enumerate(classes):
        share = count // len(classes) + (number < count % len(classes))
        kept[(labels == one).nonzero().flatten()[:share]] = one
    return kept


def _hide_entries(values: Tensor, share: float) -> Tensor:
    """Each entry hidden with probability `share`, `(N, *event)`; every row keeps at least one."""
    generator = torch.Generator().manual_seed(SEED)
    hidden = torch.rand(values.shape, generator=generator) < share
    flat = hidden.flatten(1)
    flat[flat.all(1), 0] = False
    return values.masked_fill(flat.reshape(values.shape), torch.nan)
