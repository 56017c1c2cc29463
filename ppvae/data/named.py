r"""`load`: a data set by its name, or a file by its path. One row of a table per named set."""

__all__ = ["DATASETS", "SOURCES", "Source", "load"]

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import images
from .binarize import BINARIZE, Binarize, binarize_parts
from .files import READERS, read_file
from .rows import Rows
from .splits import PARTS, check_split, split_indices

TRAIN_TEST = ("train", "train", "test")  # files for train and test; valid is held out of train
ONE_POOL = ("all", "all", "all")
THREE_POOLS = ("train", "valid", "test")


@dataclass(frozen=True)
class Source:
    r"""A named image set: how to read it, how to cut it, and its usual form.

    Arguments:
        description: in one line.
        read: (root, pool) → images of that pool.
        pools: the pools that hold train, valid and test, in this order.
        held_out: for a part that shares its pool, its number of rows (≥ 1) or its share (< 1).
        shuffled: whether a pool is permuted, by the fixed seed, before it is cut.
        binarize: the usual form.
        offset, divisor: a byte b means the pixel value (b + offset) / divisor.
        labelled: whether rows have a class.
    """

    description: str
    read: Callable[[Path, str], images.Images]
    pools: tuple[str, str, str] = TRAIN_TEST
    held_out: Mapping[str, float] = field(default_factory=dict)
    shuffled: bool = False
    binarize: Binarize = "static"
    offset: float = 0.0
    divisor: float = 255.0
    labelled: bool = True


def _mnist_like(description: str, folder: str) -> Source:
    return Source(description, partial(images.read_mnist_like, folder), held_out={"valid": 10_000})


SOURCES: dict[str, Source] = {
    "digits": Source(
        "1797 handwritten digits, 8x8, inside this package (1297 / 250 / 250)",
        images.read_digits, ONE_POOL, {"valid": 250, "test": 250}, shuffled=True, divisor=16.0,
    ),
    "mnist": _mnist_like("handwritten digits, 28x28 (50,000 / 10,000 / 10,000)", "MNIST"),
    "fashion_mnist": _mnist_like(
        "photographs of clothes, 28x28 (50,000 / 10,000 / 10,000)", "FashionMNIST"
    ),
    "kmnist": _mnist_like(
        "cursive Japanese characters, 28x28 (50,000 / 10,000 / 10,000)", "KMNIST"
    ),
    "omniglot": Source(
        "characters of 50 alphabets, 28x28 (23,000 / 1,345 / 8,115); not the files of Burda et al.",
        images.read_omniglot, held_out={"valid": 1345}, shuffled=True,
    ),
    "cifar10": Source(
        "colour photographs, 3x32x32 (45,000 / 5,000 / 10,000)",
        images.read_cifar10, held_out={"valid": 5000}, binarize="none",
    ),
    "celeba": Source(
        "faces, 3x64x64 (162,770 / 19,867 / 19,962); 8 GB in memory",
        images.read_celeba, THREE_POOLS, binarize="none", labelled=False,
    ),
    "image_folder:PATH": Source(
        "images of one size under a folder, as RGB (80 / 10 / 10 per cent)",
        images.read_folder, ONE_POOL, {"valid": 0.1, "test": 0.1}, shuffled=True, binarize="none",
    ),
    "binarized_mnist": Source(
        "MNIST's fixed bits by Larochelle and Murray, 28x28 (50,000 / 10,000 / 10,000)",
        images.read_binarized_mnist, THREE_POOLS, binarize="none", divisor=1.0, labelled=False,
    ),
    "frey_face": Source(
        "frames of one face, grey, 28x20 (1565 / 200 / 200)",
        images.read_frey_face, ONE_POOL, {"valid": 200, "test": 200}, shuffled=True,
        binarize="none", offset=0.5, divisor=256.0, labelled=False,
    ),
}  # fmt: skip

FILES = "|".join(f"PATH{suffix}" for suffix in READERS)

DATASETS: dict[str, str] = {name: source.description for name, source in SOURCES.items()}
DATASETS[FILES] = "a file of numbers (its own splits, or 80 / 10 / 10 per cent)"


def load(
    name_or_path: str | os.PathLike[str],
    *,
    split: str = "train",
    binarize: Binarize | None = None,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    flat: bool = True,
    labels: bool = False,
) -> Rows:
    r"""Loads one split of a named data set or of a file, with the same rows every time.

    | name | site `x`, flat | values | usual form |
    |---|---|---|---|
    | digits | (N, 64) | k/16 | static |
    | mnist, fashion_mnist, kmnist, omniglot | (N, 784) | k/255 | static |
    | cifar10 | (N, 3072) | k/255 | none |
    | celeba | (N, 12288) | k/255 | none |
    | image_folder:PATH | (N, 3·H·W) | k/255 | none |
    | binarized_mnist | (N, 784) | 0 or 1 | none |
    | frey_face | (N, 560) | (k + ½)/256 | none |
    | .npy .npz .csv .tsv .parquet .pt | the file's own | the file's own | none |

    Pixels run over channels, then rows, then columns, so `x.reshape(N, C, H, W)` undoes `flat`. A
    table file (.csv, .tsv, .parquet) gives `x` (N, columns); keys of .npz and .pt files are names.

    Arguments:
        name_or_path: a name in `DATASETS`, `image_folder:PATH`, or the path of a file.
        split: train, valid, test, train+valid or all. Splits are fixed; no seed changes them. Of a
            file without splits of its own, `all` keeps the order of the file.
        binarize: what becomes of pixel values p in [0, 1]. `static`: one draw of bits with
            probability p, the same for the same seed, whichever splits are joined; `dynamic`:
            probabilities, redrawn in every batch; `threshold`: p > 0.5; `none`: as they are. None:
            the usual form in the table.
        root: folder of the data sets; else the environment variable PPVAE_DATA, else
            `~/.cache/ppvae`. A named set that is not there is downloaded into it where torchvision
            knows how.
        seed: of the static bits, 0 ≤ seed < 2³².
        flat: images as vectors `(N, C·H·W)`; otherwise `(N, C, H, W)`. Files are not reshaped.
        labels: adds `y` `(N,)`, the number of the class. A file gives all its names, and must hold
            `y`.

    Returns:
        The rows, in torch's default dtype unless a file has a floating type of its own.

    Raises:
        ValueError: an unknown name or option, a file that is missing, empty, damaged or pickled, a
            set without labels, values outside [0, 1] with `binarize`.
    """
    check_split(split)
    if binarize is not None and binarize not in BINARIZE:
        raise ValueError(f"expected binarize among {', '.join(BINARIZE)} or None, got {binarize!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"expected a whole seed from 0 to 2**32 - 1, got {seed!r}")
    text = os.fspath(name_or_path)
    kind, _, folder = text.partition(":")
    if kind == "image_folder" and folder:
        source, root = SOURCES["image_folder:PATH"], folder
        name = Path(folder).expanduser().resolve().name
    elif text in SOURCES:
        source, name = SOURCES[text], text
        root = root or os.environ.get("PPVAE_DATA") or "~/.cache/ppvae"
    else:
        path = _file_path(text)
        parts = read_file(path, split)
        if labels and "y" not in parts[0][1]:
            raise ValueError(
                f"expected the key 'y' for labels=True in {path}, got {list(parts[0][1])}"
            )
        return binarize_parts(parts, binarize or "none", seed, path.stem)
    if labels and not source.labelled:
        raise ValueError(f"expected a data set with classes, got {text}: use labels=False")
    parts = _split_images(source, Path(root).expanduser(), split, flat, labels)
    return binarize_parts(parts, binarize or source.binarize, seed, name)


def _file_path(text: str) -> Path:
    r"""The path of a file; ValueError where it looks like a mistyped name."""
    path = Path(text).expanduser()
    if not (path.suffix or len(path.parts) > 1 or path.exists()):
        near = difflib.get_close_matches(text, SOURCES, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"expected a data set among {', '.join(DATASETS)}, got {text!r}.{hint}")
    return path


def _split_images(
    source: Source, root: Path, split: str, flat: bool, labels: bool
) -> list[tuple[str, dict[str, Tensor]]]:
    r"""The parts of a split, each pool read once."""
    pool_of = dict(zip(PARTS["all"], source.pools, strict=True))
    dtype = torch.get_default_dtype()
    parts: list[tuple[str, dict[str, Tensor]]] = []
    for pool in dict.fromkeys(pool_of[part] for part in PARTS[split]):
        found = source.read(root, pool)
        if labels and found.labels is None:
            raise ValueError(
                f"expected a subfolder for each class in {root}, got none: use labels=False"
            )
        in_pool = [part for part in pool_of if pool_of[part] == pool]
        index = split_indices(len(found.pixels), in_pool, source.held_out, shuffled=source.shuffled)
        for part in filter(PARTS[split].__contains__, in_pool):
            pixels = torch.from_numpy(found.pixels[index[part]]).to(dtype)  # (n, C, H, W)
            pixels = pixels.add_(source.offset).div_(source.divisor)
            columns = {"x": pixels.flatten(1) if flat else pixels}
            if labels and found.labels is not None:
                classes = found.labels[index[part]].astype(np.int64)
                columns["y"] = torch.from_numpy(classes).to(dtype)
            parts.append((part, columns))
    return parts
