r"""Named data sets: fixed splits, fixed bits, real files, and the message of each fault."""

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ppvae.data import DATASETS, load
from ppvae.data.images import read_idx

REAL = os.environ.get("PPVAE_DATA")
HERE = Path(__file__).resolve().parents[1]
SPLITS = ("train", "valid", "test")
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def real(*parts: str):
    r"""Skips a test unless the real file lies under PPVAE_DATA."""
    there = REAL is not None and Path(REAL, *parts).exists()
    return pytest.mark.skipif(not there, reason=f"needs {'/'.join(parts)} under PPVAE_DATA")


def idx(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    r"""IDX content of an array, with another declared shape if one is given."""
    shape = array.shape if shape is None else shape
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + array.tobytes()


@pytest.fixture(scope="module")
def mnist_root(tmp_path_factory) -> Path:
    r"""A root in torchvision's layout, gzipped files only: 10,050 and 20 images of 2 × 3 pixels."""
    root = tmp_path_factory.mktemp("root")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 10_050), ("t10k", 20)):
        pixels = (np.arange(count * 6) % 256).astype(np.uint8).reshape(count, 2, 3)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (raw / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return root


def x_of(split: str = "train", **options) -> torch.Tensor:
    return load("digits", split=split, **options).tensors["x"]


# -- digits -------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_in_fixed_disjoint_splits():
    parts = [load("digits", split=s, binarize="none", labels=True) for s in SPLITS]
    assert [len(part) for part in parts] == [1297, 250, 250] and parts[0].name == "digits"
    whole = load("digits", split="all", binarize="none", labels=True, seed=9).tensors
    for name in ("x", "y"):
        assert torch.equal(torch.cat([part.tensors[name] for part in parts]), whole[name])
    theirs = load_digits()
    order = np.random.RandomState(0).permutation(1797)
    assert torch.equal(whole["x"], torch.tensor(theirs.data[order] / 16).float())
    assert torch.equal(whole["y"], torch.tensor(theirs.target[order]).float())


def test_digits_keep_their_shape_on_request():
    images = x_of(flat=False, binarize="none")
    assert images.shape == (1297, 1, 8, 8)
    assert torch.equal(images.flatten(1), x_of(binarize="none"))


def test_digits_are_static_bits_by_default_whatever_is_loaded_with_them():
    rows = load("digits")
    assert rows.dynamic == frozenset() and set(rows.tensors["x"].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(rows.tensors["x"], x_of(binarize="static"))
    assert not torch.equal(rows.tensors["x"], x_of(seed=1))
    joined = x_of("train+valid")
    assert torch.equal(joined, torch.cat([x_of(), x_of("valid")]))
    assert torch.equal(joined, x_of("all")[:1547])


def test_static_bits_have_the_pixels_as_means():
    p = x_of(binarize="none").double()
    bits = torch.stack([x_of(seed=seed).double() for seed in range(20)])
    std_error = (p * (1 - p)).sum().sqrt() / (p.numel() * 20**0.5)
    assert abs(bits.mean() - p.mean()) < 4 * std_error


def test_threshold_and_dynamic_come_from_the_same_pixels():
    p = x_of(binarize="none")
    assert torch.equal(x_of(binarize="threshold"), (p > 0.5).float())
    dynamic = load("digits", binarize="dynamic")
    assert dynamic.dynamic == {"x"} and torch.equal(dynamic.tensors["x"], p)
    generator = torch.Generator().manual_seed(0)
    first, second = (dynamic.batch(slice(100), generator)["x"] for _ in range(2))
    assert not torch.equal(first, second)


def test_pixels_take_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        assert load("digits", labels=True).tensors["y"].dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# -- files of the MNIST family ------------------------------------------------------------------


def test_gzipped_mnist_files_are_read_as_they_lie(mnist_root, monkeypatch):
    monkeypatch.setenv("PPVAE_DATA", str(mnist_root))
    rows = load("mnist", split="train+valid", binarize="none", labels=True)
    pixels = (torch.arange(10_050 * 6) % 256).float().reshape(10_050, 6) / 255
    assert torch.equal(rows.tensors["x"], pixels)
    assert torch.equal(rows.tensors["y"], (torch.arange(10_050) % 10).float())
    assert [len(load("mnist", split=split)) for split in SPLITS] == [50, 10_000, 20]
    images = load("mnist", split="test", root=mnist_root, flat=False).tensors["x"]
    assert images.shape == (20, 1, 2, 3)
    assert len(list((mnist_root / "MNIST" / "raw").iterdir())) == 4  # nothing unpacked beside them
    with pytest.raises(ValueError, match=r"file .*nowhere.freyfaces|FreyFace.*does not exist"):
        load("frey_face", root=mnist_root / "nowhere")


def test_a_plain_idx_file_is_read(tmp_path):
    (tmp_path / "a").write_bytes(idx(PIXELS))
    assert np.array_equal(read_idx(tmp_path / "a"), PIXELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "unpack requires a buffer of 4 bytes"),
        (b"\x01\x02\x03\x04", "no magic number 00 00 08"),
        (b"\0\0\x0d\x03" + bytes(40), "no magic number 00 00 08"),
        (b"\0\0\x08\x03" + bytes(4), "requires a buffer of 12 bytes"),
        (idx(PIXELS)[:-1], "size 23 into shape"),
        (idx(PIXELS) + b"0", "size 25 into shape"),
        (idx(PIXELS, (2**32 - 1,) * 3), "bytes that unpack to 79228162458924105385300197375"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, content, message):
    for path, packed in ((tmp_path / "a", content), (tmp_path / "a.gz", gzip.compress(content))):
        path.write_bytes(packed)
        with pytest.raises(ValueError, match=f"an IDX file of bytes in {path}, got: .*{message}"):
            read_idx(path)


def test_a_damaged_gzip_stream_and_labels_of_another_count_are_refused(tmp_path):
    packed = gzip.compress(idx(PIXELS))
    for content in (packed[:-9], b"no gzip at all", packed[:-8] + b"\xff" * 8):
        (tmp_path / "a.gz").write_bytes(content)
        with pytest.raises(ValueError, match="an IDX file of bytes in .*a.gz, got: "):
            read_idx(tmp_path / "a.gz")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(ValueError, match=r"labels \(N,\) in .* got \(2, 3, 4\) and \(3,\)"):
        load("mnist", split="test", root=tmp_path)


# -- what is imported, and torchvision ----------------------------------------------------------


def test_heavy_libraries_are_imported_only_where_they_are_needed(mnist_root):
    program = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from ppvae.data import load\n"
        "print(len(load('mnist', split='test', root=sys.argv[1])), len(load('digits')))\n"
        "print({'pandas', 'sklearn', 'pyarrow', 'torchvision.datasets'} & set(sys.modules))\n"
        "try: load('cifar10', root=sys.argv[1])\n"
        "except ValueError as fault: print(fault)\n"
    )
    command = [sys.executable, "-c", program, str(mnist_root)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True)
    counts, heavy, fault = done.stdout.splitlines()
    assert (counts, heavy) == ("20 1297", "set()")
    assert fault.startswith("expected torchvision for this data set, but it does not import")


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets", reason="torchvision does not import")

    def refuse(*args, **options):
        raise RuntimeError("no network")

    monkeypatch.setattr(datasets, "KMNIST", refuse)
    with pytest.raises(ValueError, match=r"KMNIST in .*got: no network\. Put its files there"):
        load("kmnist", root=tmp_path)


def test_a_folder_of_images_is_cut_and_classed_by_subfolder(tmp_path):
    pytest.importorskip("torchvision", reason="torchvision does not import")
    image = pytest.importorskip("PIL.Image")
    for number in range(20):
        folder = tmp_path / ("cats" if number < 10 else "dogs")
        folder.mkdir(exist_ok=True)
        image.new("RGB", (5, 4), (number, 0, 255)).save(folder / f"{number:02}.png")
    rows = load(f"image_folder:{tmp_path}", split="all", labels=True, flat=False)
    assert rows.tensors["x"].shape == (20, 3, 4, 5) and rows.name == tmp_path.name
    red = (rows.tensors["x"][:, 0, 0, 0] * 255).round()
    assert torch.equal(rows.tensors["y"], (red >= 10).float())
    assert len(load(f"image_folder:{tmp_path}", split="test")) == 2
    with pytest.raises(ValueError, match="a subfolder for each class in .*cats, got none"):
        load(f"image_folder:{tmp_path / 'cats'}", labels=True)
    image.new("RGB", (6, 4)).save(tmp_path / "cats" / "wide.png")
    with pytest.raises(ValueError, match=r"one size .*\(3, 4, 6\) in .*wide.png: resize"):
        load(f"image_folder:{tmp_path}")
    (tmp_path / "cats" / "wide.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="expected an image in .*wide.png"):
        load(f"image_folder:{tmp_path}")
    with pytest.raises(ValueError, match="with a folder of images"):
        load(f"image_folder:{tmp_path / 'none'}")


def test_every_listed_set_has_a_line():
    assert list(DATASETS)[:3] == ["digits", "mnist", "fashion_mnist"] and len(DATASETS) == 11
    assert all(DATASETS.values())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mnits", {}, "data set among digits, mnist, .*got 'mnits'. Did you mean mnist?"),
        ("digits", {"split": "dev"}, "split among train, valid, test, train.valid, all, got 'dev'"),
        ("digits", {"binarize": "round"}, "binarize among dynamic, .*got 'round'"),
        ("digits", {"seed": -1}, "seed from 0 to 2"),
        ("frey_face", {"labels": True}, "data set with classes, got frey_face: use labels=False"),
        ("digits.arrow", {}, "digits.arrow, which does not exist"),
    ],
)
def test_a_wrong_name_or_option_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        load(name, **options)


# -- real files ---------------------------------------------------------------------------------


@real("MNIST", "raw")
def test_real_mnist_has_its_known_means_and_first_labels():
    rows = load("mnist", split="train+valid", binarize="none", labels=True, root=REAL)
    assert rows.tensors["x"].shape == (60_000, 784)
    assert abs(float(rows.tensors["x"].mean()) - 0.1307) < 5e-5
    assert rows.tensors["y"][:5].tolist() == [5, 0, 4, 1, 9]
    assert len(load("mnist", split="test", root=REAL)) == 10_000


@real("FashionMNIST", "raw")
def test_real_fashion_mnist_starts_with_an_ankle_boot():
    rows = load("fashion_mnist", split="test", labels=True, root=REAL)
    assert rows.tensors["x"].shape == (10_000, 784) and rows.tensors["y"][0] == 9


@real("BinarizedMNIST")
def test_real_binarized_mnist_is_bits_in_its_own_splits():
    parts = [load("binarized_mnist", split=s, root=REAL) for s in ("valid", "test")]
    assert [part.tensors["x"].shape for part in parts] == [(10_000, 784)] * 2
    assert set(parts[0].tensors["x"].unique().tolist()) == {0.0, 1.0}


@real("FreyFace")
def test_real_frey_faces_lie_inside_the_open_unit_interval():
    parts = [load("frey_face", split=s, root=REAL) for s in SPLITS]
    assert [len(part) for part in parts] == [1565, 200, 200]
    x = parts[0].tensors["x"]
    assert x.shape[1] == 560 and float(x.min()) > 0 and float(x.max()) < 1
    grey = x * 256 - 0.5
    assert torch.equal(grey.round(), grey)


@real("OMNIGLOT", "omniglot28_lake.npz")
def test_real_omniglot_keeps_every_character_in_train_and_test():
    train, test = (
        load("omniglot", split=split, labels=True, root=REAL) for split in ("train+valid", "test")
    )
    assert (len(train), len(test)) == (24_345, 8_115)
    assert (train.tensors["y"].unique().numel(), test.tensors["y"].unique().numel()) == (1623, 1623)
    assert len(load("omniglot", split="valid", root=REAL)) == 1345
