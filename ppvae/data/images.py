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
    "read_mnist_like",
    "read_omniglot",
]

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .arrays import read_npz
from .idx import find_idx, read_idx

PIL_BOX = 4  # Pillow's number for the area average
# Left, top, right, bottom of the central 148 × 148 pixels of 178 × 218.
CELEBA_FACE = (15, 35, 163, 183)


class Images(NamedTuple):
    r"""One pool: `pixels` (N, C, H, W) uint8, and `labels` (N,) class numbers or None."""

    pixels: np.ndarray
    labels: np.ndarray | None = None


def read_digits(root: Path, pool: str) -> Images:
    r"""The 1797 digits of 8 × 8 pixels inside scikit-learn, values 0 to 16; needs no root."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Images(digits.images.astype(np.uint8)[:, None], digits.target)


def read_mnist_like(folder: str, root: Path, pool: str) -> Images:
    r"""MNIST, FashionMNIST or KMNIST in `root/folder/raw`; fetched by torchvision when missing."""
    raw, stem = root / folder / "raw", {"train": "train", "test": "t10k"}[pool]
    stems = (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")
    if not all(find_idx(raw, name) for name in stems):
        _fetched(folder, root, lambda sets: getattr(sets, folder)(str(root), download=True))
    pixels, labels = (read_idx(_present(raw, name)) for name in stems)
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
        raise ValueError(
            f"expected images (N, H, W) and labels (N,) in {raw}, got {pixels.shape} and "
            f"{labels.shape}"
        )
    return Images(pixels[:, None], labels)


def read_omniglot(root: Path, pool: str) -> Images:
    r"""28 × 28 drawings: `root/OMNIGLOT/omniglot28_lake.npz`, else torchvision's, reduced by area.

    The two are cut differently: the first keeps 15 drawings of every character for train and 5 for
    test, the second keeps 20 whole alphabets for test (17,935 / 1,345 / 13,180 rows). State which
    one was used.
    """
    path = root / "OMNIGLOT" / "omniglot28_lake.npz"
    if not path.is_file():
        return _omniglot_by_torchvision(root, pool)
    arrays = _members(path, "images", "split", "char_id")
    rows = arrays["split"] == {"train": 0, "test": 1}[pool]
    return Images(arrays["images"][rows][:, None], arrays["char_id"][rows] - 1)


def read_binarized_mnist(root: Path, pool: str) -> Images:
    r"""Unlabelled bits: `root/BinarizedMNIST/binarized_mnist_packed.npz`.

    Source:
        Larochelle and Murray, 2011, "The neural autoregressive distribution estimator".
    """
    path = root / "BinarizedMNIST" / "binarized_mnist_packed.npz"
    packed = _members(path, pool)[pool]
    return Images(np.unpackbits(packed, axis=1).reshape(-1, 1, 28, 28))


def read_frey_face(root: Path, pool: str) -> Images:
    r"""1965 frames of 28 × 20 pixels: `root/FreyFace/freyfaces.npz`, unlabelled."""
    frames = _members(root / "FreyFace" / "freyfaces.npz", "images")["images"]
    return Images(frames.reshape(-1, 1, 28, 20))


def read_cifar10(root: Path, pool: str) -> Images:
    r"""32 × 32 photographs by torchvision, which checks the md5 of the files first."""
    train = pool == "train"
    found = _fetched(
        "CIFAR10", root, lambda sets: sets.CIFAR10(str(root), train=train, download=True)
    )
    return Images(np.ascontiguousarray(found.data.transpose(0, 3, 1, 2)), np.array(found.targets))


def read_celeba(root: Path, pool: str) -> Images:
    r"""Faces by torchvision: the central 148 × 148 pixels, reduced to 64 × 64."""
    found = _fetched("CelebA", root, lambda sets: sets.CelebA(str(root), split=pool, download=True))
    pixels = np.empty((len(found), 3, 64, 64), np.uint8)
    for row in range(len(found)):
        face = found[row][0].crop(CELEBA_FACE).resize((64, 64), resample=PIL_BOX)
        pixels[row] = np.asarray(face).transpose(2, 0, 1)
    return Images(pixels)


def read_folder(root: Path, pool: str) -> Images:
    r"""Every image under a folder, as RGB of one size; its subfolders may serve as classes."""
    if not root.is_dir():
        raise ValueError(
            f"expected 'image_folder:PATH' with a folder of images, got {root}, which is none"
        )
    folder = _torchvision("folder")
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in folder.IMG_EXTENSIONS)
    if not paths:
        raise ValueError(
            f"expected at least one image in {root}, got a folder that is empty of them"
        )
    shape = _decoded(paths[0], folder.default_loader).shape
    pixels = np.empty((len(paths), *shape), np.uint8)
    for row, path in enumerate(paths):
        image = _decoded(path, folder.default_loader)
        if image.shape != shape:
            raise ValueError(
                f"expected images of one size (C, H, W) = {shape} as in {paths[0]}, "
                f"got {image.shape} in {path}: resize them first"
            )
        pixels[row] = image
    classes = [path.relative_to(root).parts[0] for path in paths if path.parent != root]
    labels = np.unique(classes, return_inverse=True)[1] if len(classes) == len(paths) else None
    return Images(pixels, labels)


def _decoded(path: Path, loader: Callable[[str], Any]) -> np.ndarray:
    try:
        return np.asarray(loader(str(path))).transpose(2, 0, 1)
    except (OSError, SyntaxError, ValueError) as fault:
        raise ValueError(f"expected an image at {path}, got: {fault}") from fault


def _omniglot_by_torchvision(root: Path, pool: str) -> Images:
    train = pool == "train"
    found = _fetched(
        "Omniglot", root, lambda sets: sets.Omniglot(str(root), background=train, download=True)
    )
    pixels, labels = np.empty((len(found), 1, 28, 28), np.uint8), np.empty(len(found), np.int64)
    for row in range(len(found)):
        image, labels[row] = found[row]
        # The published files draw ink as 0 on white.
        pixels[row, 0] = 255 - np.asarray(image.convert("L").resize((28, 28), resample=PIL_BOX))
    return Images(pixels, labels if train else labels + 964)  # 964 characters in the background set


def _members(path: Path, *keys: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(
            f"expected the file {path}, which does not exist: put it there, or give another root"
        )
    arrays = read_npz(path)
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise ValueError(f"expected the key '{missing[0]}' in {path}, got {list(arrays)}")
    return arrays


def _present(raw: Path, stem: str) -> Path:
    path = find_idx(raw, stem)
    if path is None:
        raise ValueError(f"expected {stem} or {stem}.gz in {raw}, got neither")
    return path


def _fetched(name: str, root: Path, make: Callable[[Any], Any]) -> Any:
    sets = _torchvision()
    try:
        return make(sets)
    except (RuntimeError, OSError, ImportError) as fault:
        raise ValueError(
            f"expected {name} in {root} or to be downloaded into it, got: {fault}. "
            "Put its files there, or give another root"
        ) from fault


def _torchvision(module: str = "") -> Any:
    try:
        import torchvision.datasets
    except (ImportError, RuntimeError, OSError) as fault:
        # The usual reason: a torchvision built for CUDA beside a torch built for the CPU.
        raise ValueError(
            "expected torchvision for this data set, but it does not import beside torch: "
            f"{fault}. "
            "Install the torchvision that was built for this torch"
        ) from fault
    return getattr(torchvision.datasets, module) if module else torchvision.datasets
