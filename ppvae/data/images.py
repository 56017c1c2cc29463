r"""Readers of the named image sets: pixels as bytes, and class numbers where a set has them.

A reader takes the data root and the name of one pool of rows (what the set's own files keep apart)
and returns that pool. Files that lie in the root are read directly; torchvision is imported only to
fetch or decode what is left.
"""

__all__ = [
    "Images",
    "read_binarized_mnist",
    "read_celeba",
    "read_cifar10",
    "read_digits",
    "read_folder",
    "read_frey_face",
    "read_idx",
    "read_mnist_like",
    "read_omniglot",
]

import gzip
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .files import read_npz
from .reading import check_unpacked_size, reading

PIL_BOX = 4  # Pillow's number for the area average
# Left, top, right, bottom of the central 148 × 148 pixels of 178 × 218.
CELEBA_FACE = (15, 35, 163, 183)


class Images(NamedTuple):
    r"""One pool: `pixels` (N, C, H, W) uint8, and `labels` (N,) class numbers or None."""

    pixels: np.ndarray
    labels: np.ndarray | None = None


def read_digits(root: Path, pool: str) -> Images:
    r"""The 1797 digits of 8 × 8 pixels, values 0 to 16, that come with this package; needs no root.

    Source:
        Alpaydin and Kaynak, 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, its test set (CC BY 4.0); the same rows as scikit-learn's `load_digits`.
    """
    arrays = read_npz(Path(__file__).with_name("digits.npz"))
    return Images(arrays["images"][:, None], arrays["labels"])


def read_mnist_like(folder: str, root: Path, pool: str) -> Images:
    r"""MNIST, FashionMNIST or KMNIST in `root/folder/raw`; fetched by torchvision when missing."""
    stem = root / folder / "raw" / {"train": "train", "test": "t10k"}[pool]
    paths = [Path(f"{stem}-{what}-ubyte") for what in ("images-idx3", "labels-idx1")]
    found = [path if path.is_file() else path.with_name(f"{path.name}.gz") for path in paths]
    if not all(path.is_file() for path in found):
        _torchvision_set(folder, root)
        found = paths
    pixels, labels = map(read_idx, found)
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
        raise ValueError(
            f"expected images (N, H, W) and labels (N,) in {stem.parent}, got {pixels.shape} and "
            f"{labels.shape}"
        )
    return Images(pixels[:, None], labels)


def read_idx(path: Path) -> np.ndarray:
    r"""Reads an IDX file of unsigned bytes, plain or `.gz`, without trusting its declared shape.

    torchvision would first unpack it beside itself, into a folder that can be written to.

    Returns:
        Array of uint8 in the declared shape.

    Raises:
        ValueError: another format or element type, damaged compression, or another number of bytes
            than declared.

    Source:
        LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section on file
        formats.
    """
    with reading("an IDX file of bytes", path):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            zero, kind, num_dims = struct.unpack(">HBB", stream.read(4))
            if zero or kind != 8 or not num_dims:
                raise ValueError("no magic number 00 00 08 at its start")
            shape = struct.unpack(f">{num_dims}I", stream.read(4 * num_dims))
            check_unpacked_size(math.prod(shape), path)
            content = stream.read(math.prod(shape) + 1)
        return np.frombuffer(content, np.uint8).reshape(shape)


def read_omniglot(root: Path, pool: str) -> Images:
    r"""28 × 28 drawings: `root/OMNIGLOT/omniglot28_lake.npz`, else torchvision's, reduced by area.

    The two are cut differently: the first keeps 15 drawings of every character for train and 5 for
    test, the second keeps 20 whole alphabets for test (17,935 / 1,345 / 13,180 rows). State which
    one was used.
    """
    path = root / "OMNIGLOT" / "omniglot28_lake.npz"
    if path.is_file():
        pixels, split, labels = _arrays(path, "images", "split", "char_id")
        rows = split == {"train": 0, "test": 1}[pool]
        return Images(pixels[rows][:, None], labels[rows] - 1)
    found = _torchvision_set("Omniglot", root, background=pool == "train")
    small = (image.convert("L").resize((28, 28), resample=PIL_BOX) for image, _ in found)
    # The published files draw ink as 0 on white.
    pixels = np.stack([255 - np.asarray(image) for image in small])[:, None]
    labels = np.array([label for _, label in found])
    return Images(pixels, labels if pool == "train" else labels + 964)  # 964 characters in train


def read_binarized_mnist(root: Path, pool: str) -> Images:
    r"""Unlabelled bits: `root/BinarizedMNIST/binarized_mnist_packed.npz`.

    Source:
        Larochelle and Murray, 2011, "The neural autoregressive distribution estimator".
    """
    (packed,) = _arrays(root / "BinarizedMNIST" / "binarized_mnist_packed.npz", pool)
    return Images(np.unpackbits(packed, axis=1).reshape(-1, 1, 28, 28))


def read_frey_face(root: Path, pool: str) -> Images:
    r"""1965 frames of 28 × 20 pixels: `root/FreyFace/freyfaces.npz`, unlabelled."""
    (frames,) = _arrays(root / "FreyFace" / "freyfaces.npz", "images")
    return Images(frames.reshape(-1, 1, 28, 20))


def read_cifar10(root: Path, pool: str) -> Images:
    r"""32 × 32 photographs by torchvision, which checks the md5 of the files first."""
    found = _torchvision_set("CIFAR10", root, train=pool == "train")
    return Images(np.ascontiguousarray(found.data.transpose(0, 3, 1, 2)), np.array(found.targets))


def read_celeba(root: Path, pool: str) -> Images:
    r"""Faces by torchvision: the central 148 × 148 pixels, reduced to 64 × 64."""
    found = _torchvision_set("CelebA", root, split=pool)
    pixels = np.empty((len(found), 3, 64, 64), np.uint8)
    for row in range(len(found)):
        face = found[row][0].crop(CELEBA_FACE).resize((64, 64), resample=PIL_BOX)
        pixels[row] = np.asarray(face).transpose(2, 0, 1)
    return Images(pixels)


def read_folder(root: Path, pool: str) -> Images:
    r"""Every image under a folder, as RGB of one size; its subfolders may serve as classes."""
    if not root.is_dir():
        raise ValueError(f"expected 'image_folder:PATH' with a folder of images, got {root}")
    folder = _torchvision_datasets().folder
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in folder.IMG_EXTENSIONS)
    if not paths:
        raise ValueError(f"expected at least one image in {root}, got none")
    images: list[np.ndarray] = []
    for path in paths:
        with reading("an image", path):
            images.append(np.asarray(folder.default_loader(str(path))).transpose(2, 0, 1))
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"expected images of one size (C, H, W) = {images[0].shape} as in {paths[0]}, "
                f"got {images[-1].shape} in {path}: resize them first"
            )
    classes = [path.relative_to(root).parts[0] for path in paths if path.parent != root]
    labels = np.unique(classes, return_inverse=True)[1] if len(classes) == len(paths) else None
    return Images(np.stack(images), labels)


def _arrays(path: Path, *keys: str) -> list[np.ndarray]:
    if not path.is_file():
        raise ValueError(
            f"expected the file {path}, which does not exist: put it there, or give another root"
        )
    arrays = read_npz(path)
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise ValueError(f"expected the key '{missing[0]}' in {path}, got {list(arrays)}")
    return [arrays[key] for key in keys]


def _torchvision_set(name: str, root: Path, **options: Any) -> Any:
    try:
        return getattr(_torchvision_datasets(), name)(str(root), download=True, **options)
    except (RuntimeError, OSError, ImportError) as error:
        raise ValueError(
            f"expected {name} in {root} or to be downloaded into it, got: {error}. "
            "Put its files there, or give another root"
        ) from error


def _torchvision_datasets() -> Any:
    try:
        import torchvision.datasets
    except (ImportError, RuntimeError, OSError) as error:
        # The usual reason: a torchvision built for CUDA beside a torch built for the CPU.
        raise ValueError(
            "expected torchvision for this data set, but it does not import beside torch: "
            f"{error}. Install the torchvision that was built for this torch"
        ) from error
    return torchvision.datasets
