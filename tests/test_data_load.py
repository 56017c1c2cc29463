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


def idx(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    r"""IDX content of an array, with another declared shape if one is given."""
    shape = array.shape if shape is None else shape
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + array.tobytes()


@pytest.fixture(scope="module")
def mnist_root(tmp_path_factory) -> Path:
    r"""A root in torchvision's layout, gzipped files only: 10,050 and 20 images of 2 × 3 pixels."""
    raw = tmp_path_factory.mktemp("root") / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 10_050), ("t10k", 20)):
        pixels = (np.arange(count * 6) % 256).astype(np.uint8).reshape(count, 2, 3)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (raw / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return raw.parents[1]


def x_of(split: str = "train", **options) -> torch.Tensor:
    return load("digits", split=split, **options).tensors["x"]


# -- digits -------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_in_fixed_disjoint_splits():
    parts = [load("digits", split=s, binarize="none", labels=True) for s in SPLITS]
    assert [len(part) for part in parts] == [1297, 250, 250] and parts[0].name == "digits"
    whole = load("digits", split="all", binarize="none", labels=True, seed=9).tensors
    theirs = load_digits()
    order = np.random.RandomState(0).permutation(1797)
    for name, values in (("x", theirs.data / 16), ("y", theirs.target)):
        assert torch.equal(torch.cat([part.tensors[name] for part in parts]), whole[name])
        assert torch.equal(whole[name], torch.tensor(values[order]).float())
    images = x_of(flat=False, binarize="none")
    assert images.shape == (1297, 1, 8, 8)
    assert torch.equal(images.flatten(1), parts[0].tensors["x"])


def test_digits_are_static_bits_by_default_whatever_is_loaded_with_them():
    rows = load("digits")
    assert rows.dynamic == frozenset() and set(rows.tensors["x"].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(rows.tensors["x"], x_of(binarize="static"))
    joined = x_of("train+valid")
    assert torch.equal(joined, torch.cat([x_of(), x_of("valid")]))
    assert torch.equal(joined, x_of("all")[:1547])


def test_bits_come_from_the_pixels():
    p = x_of(binarize="none")
    assert torch.equal(x_of(binarize="threshold"), (p > 0.5).float())
    dynamic = load("digits", binarize="dynamic")
    assert dynamic.dynamic == {"x"} and torch.equal(dynamic.tensors["x"], p)
    generator = torch.Generator().manual_seed(0)
    first, second = (dynamic.batch(slice(100), generator)["x"] for _ in range(2))
    assert not torch.equal(first, second)
    static = torch.stack([x_of(seed=seed).double() for seed in range(20)])
    assert not torch.equal(static[0], static[1])
    std_error = (p * (1 - p)).double().sum().sqrt() / (p.numel() * 20**0.5)
    assert abs(static.mean() - p.double().mean()) < 4 * std_error


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
    with pytest.raises(ValueError, match=r"file .*nowhere.FreyFace.*does not exist"):
        load("frey_face", root=mnist_root / "nowhere")


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
    (tmp_path / "a").write_bytes(idx(PIXELS))
    assert np.array_equal(read_idx(tmp_path / "a"), PIXELS)
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
        "except ValueError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, str(mnist_root)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True)
    counts, heavy, error = done.stdout.splitlines()
    assert (counts, heavy) == ("20 1297", "set()")
    assert error.startswith("expected torchvision for this data set, but it does not import")


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
    name, cats = f"image_folder:{tmp_path}", tmp_path / "cats"
    for number in range(20):
        folder = cats if number < 10 else tmp_path / "dogs"
        folder.mkdir(exist_ok=True)
        image.new("RGB", (5, 4), (number, 0, 255)).save(folder / f"{number:02}.png")
    rows = load(name, split="all", labels=True, flat=False)
    assert rows.tensors["x"].shape == (20, 3, 4, 5) and rows.name == tmp_path.name
    red = (rows.tensors["x"][:, 0, 0, 0] * 255).round()
    assert torch.equal(rows.tensors["y"], (red >= 10).float())
    assert len(load(name, split="test")) == 2
    with pytest.raises(ValueError, match="a subfolder for each class in .*cats, got none"):
        load(f"image_folder:{cats}", labels=True)
    image.new("RGB", (6, 4)).save(cats / "wide.png")
    with pytest.raises(ValueError, match=r"one size .*\(3, 4, 6\) in .*wide.png: resize"):
        load(name)
    (cats / "wide.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="expected an image in .*wide.png"):
        load(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mnits", {}, "data set among digits, mnist, .*got 'mnits'. Did you mean mnist?"),
        ("digits", {"split": "dev"}, "split among train, valid, test, train.valid, all, got 'dev'"),
        ("digits", {"binarize": "round"}, "binarize among dynamic, .*got 'round'"),
        ("digits", {"seed": -1}, "seed from 0 to 2"),
        ("frey_face", {"labels": True}, "data set with classes, got frey_face: use labels=False"),
        ("image_folder:none", {}, "with a folder of images, got none"),
        ("digits.arrow", {}, "digits.arrow, which does not exist"),
    ],
)
def test_a_wrong_name_or_option_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        load(name, **options)


# -- real files ---------------------------------------------------------------------------------

SETS = {
    "mnist": ("MNIST", (50_000, 10_000, 10_000), 784),
    "fashion_mnist": ("FashionMNIST", (50_000, 10_000, 10_000), 784),
    "binarized_mnist": ("BinarizedMNIST", (50_000, 10_000, 10_000), 784),
    "frey_face": ("FreyFace", (1565, 200, 200), 560),
    "omniglot": ("OMNIGLOT", (23_000, 1345, 8115), 784),
}


@pytest.mark.parametrize("name", SETS)
def test_real_sets_have_their_splits_and_known_values(name):
    folder, counts, width = SETS[name]
    if REAL is None or not Path(REAL, folder).exists():
        pytest.skip(f"needs {folder} under PPVAE_DATA")
    labels = name not in ("binarized_mnist", "frey_face")
    pixels = None if name == "binarized_mnist" else "none"
    parts = [load(name, split=s, root=REAL, labels=labels, binarize=pixels) for s in SPLITS]
    train, valid, test = (part.tensors for part in parts)
    assert [part.tensors["x"].shape for part in parts] == [(count, width) for count in counts]
    if name == "mnist":
        assert abs(float(torch.cat([train["x"], valid["x"]]).mean()) - 0.1307) < 5e-5
        assert train["y"][:5].tolist() == [5, 0, 4, 1, 9]
    elif name == "fashion_mnist":  # the first is an ankle boot
        assert test["y"][0] == 9
    elif name == "binarized_mnist":
        assert set(valid["x"].unique().tolist()) == {0.0, 1.0}
    elif name == "frey_face":
        grey = train["x"] * 256 - 0.5
        assert torch.equal(grey.round(), grey) and 0 < train["x"].min() <= train["x"].max() < 1
    else:  # every character is in train and in test
        for labels in (torch.cat([train["y"], valid["y"]]), test["y"]):
            assert labels.unique().numel() == 1623


def test_every_listed_set_has_a_line():
    assert list(DATASETS)[:3] == ["digits", "mnist", "fashion_mnist"] and len(DATASETS) == 11
    assert all(DATASETS.values())
