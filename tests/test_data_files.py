r"""Files that nobody vouches for: IDX, NumPy, CSV, Parquet and torch, sound and damaged."""

import collections
import gzip
import io
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ppvae.data import load
from ppvae.data.idx import read_idx


def idx(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    r"""IDX content of an array, with another declared shape if one is given."""
    shape = array.shape if shape is None else shape
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + array.tobytes()


# -- IDX ----------------------------------------------------------------------------------------

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_idx_files_are_read_plain_and_gzipped(tmp_path, pack):
    path = tmp_path / ("a" if pack is bytes else "a.gz")
    path.write_bytes(pack(idx(PIXELS)))
    assert np.array_equal(read_idx(path), PIXELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"\x01\x02\x03\x04", "magic 00 00 08 .* got 01 02 03 04"),
        (b"\0\0\x0d\x03" + bytes(40), "got 00 00 0d 03"),
        (b"\0\0\x08\x03" + bytes(4), "3 dimensions in the header"),
        (idx(PIXELS)[:-1], "24 bytes that .* declares, got 23"),
        (idx(PIXELS) + b"0", "24 bytes that .* declares, got more"),
        (idx(PIXELS, (2**32 - 1,) * 3), r"declares as shape .* which cannot hold them"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, content, message):
    for path, packed in ((tmp_path / "a", content), (tmp_path / "a.gz", gzip.compress(content))):
        path.write_bytes(packed)
        with pytest.raises(ValueError, match=message):
            read_idx(path)


def test_a_damaged_gzip_stream_is_refused(tmp_path):
    path = tmp_path / "a.gz"
    packed = gzip.compress(idx(PIXELS))
    for content in (packed[:-9], b"no gzip at all", packed[:-8] + b"\xff" * 8):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="gzipped IDX file at .*a damaged one"):
            read_idx(path)


def test_labels_of_another_count_than_images_are_refused(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(ValueError, match=r"labels \(N,\) in .* got \(2, 3, 4\) and \(3,\)"):
        load("mnist", split="test", root=tmp_path)


# -- files --------------------------------------------------------------------------------------


def test_a_file_without_splits_is_cut_once_and_for_all(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(40.0).reshape(20, 2))
    parts = {s: load(tmp_path / "a.npy", split=s).tensors["x"] for s in ("train", "valid", "test")}
    assert {split: len(x) for split, x in parts.items()} == {"train": 16, "valid": 2, "test": 2}
    everything = torch.cat(list(parts.values()))
    whole = load(str(tmp_path / "a.npy"), split="all")
    assert torch.equal(everything[everything[:, 0].argsort()], whole.tensors["x"])
    assert whole.tensors["x"].dtype == torch.float64 and whole.name == "a"
    both = load(tmp_path / "a.npy", split="train+valid").tensors["x"]
    assert torch.equal(both, torch.cat([parts["train"], parts["valid"]]))


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_keys_may_carry_their_own_split(tmp_path, suffix):
    columns = {"x_train": np.ones((6, 2)), "x_test": np.zeros((3, 2)), "y_train": np.arange(6)}
    path = tmp_path / f"a{suffix}"
    save(path, columns | {"y_test": np.arange(3)})
    assert load(path).names == ("x", "y") and len(load(path)) == 6
    assert len(load(path, split="test", labels=True)) == 3 and len(load(path, split="all")) == 9
    with pytest.raises(ValueError, match="keys of the split 'valid' in .* got only"):
        load(path, split="train+valid")
    save(path, {"train": np.ones((6, 2)), "test": np.zeros((3, 2))})
    assert load(path, split="test").names == ("x",)
    save(path, {"x_train": np.ones((6, 2)), "mean": np.ones(2)})
    with pytest.raises(ValueError, match=r"in every key .* got \['mean'\] without"):
        load(path)
    save(path, columns | {"y_test": np.arange(3), "y_train": np.arange(5)})
    with pytest.raises(ValueError, match="6 at 'x' and 5 at 'y'"):
        load(path)


def save(path: Path, columns: dict[str, np.ndarray]) -> None:
    if path.suffix == ".npz":
        np.savez_compressed(path, **columns)
    else:
        torch.save({key: torch.from_numpy(value) for key, value in columns.items()}, path)


def test_fortran_order_and_a_bare_tensor_are_read(tmp_path):
    x = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    np.save(tmp_path / "a.npy", x)
    torch.save(torch.from_numpy(x), tmp_path / "a.pt")
    for name in ("a.npy", "a.pt"):
        assert np.array_equal(load(tmp_path / name, split="all").tensors["x"].numpy(), x)


def test_a_csv_file_is_columns_with_empty_cells_missing(tmp_path):
    (tmp_path / "a.csv").write_text('"the, a",b,c\n1,,3\n4,nan,-6e-1\n')
    rows = load(tmp_path / "a.csv", split="all")
    x = rows.tensors["x"]
    assert x.dtype == torch.float32 and x.isnan().tolist() == [[False, True, False]] * 2
    assert x[:, 2].tolist() == pytest.approx([3, -0.6])
    with pytest.raises(ValueError, match="key 'y' for labels=True"):
        load(tmp_path / "a.csv", split="all", labels=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.csv, which is empty"),
        ("a,b\n", "at least one row, got an empty tensor"),
        ("a,b\n1,2\n3\n", "2 cells as in the header, got 1 in line 3"),
        ("a,b\n1,2\n\n3,4\n", "got 0 in line 3"),
        ("a,b\n1,2\n3,cat\n", "got 'cat' in line 3, column 'b'"),
        ("a,b\n1,inf\n", "got 'inf' in line 2, column 'b'"),
        ("1,2\n3,4\n", "names of the columns in .* got numbers: add a header"),
        ("\na,b\n", "got a blank one"),
        ("a,b\n\xff\n", "CSV file in UTF-8"),
    ],
)
def test_a_csv_file_with_a_fault_is_refused_by_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.csv", split="all")


def test_parquet_goes_through_pandas(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr("ppvae.data.files._check_table", lambda path: None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    frame = pandas.DataFrame({"a": [1, 2], "b": [0.5, None], "c": ["u", "v"]})
    monkeypatch.setattr(pandas, "read_parquet", lambda path: frame)
    with pytest.raises(ValueError, match="numeric columns in .* in column 'c'"):
        load(tmp_path / "a.parquet", split="all")
    frame = frame.drop(columns="c")
    x = load(tmp_path / "a.parquet", split="all").tensors["x"]
    assert x[:, 0].tolist() == [1, 2] and x[1, 1].isnan() and x.dtype == torch.float32
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueError, match="pandas and pyarrow to read .*save the table as .csv"):
        load(tmp_path / "a.parquet")


def npy_declaring(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + bytes(16)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_of_objects_or_of_impossible_shape_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"

    def put(content: bytes) -> None:
        if suffix == ".npy":
            path.write_bytes(content)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("x.npy", content)

    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    put(stream.getvalue())
    with pytest.raises(ValueError, match="pickled objects, which are never loaded"):
        load(path)
    for shape in ((10**15, 10**15), (3,), (-1, -2)):
        put(npy_declaring(shape))
        with pytest.raises(ValueError, match="declares as shape .* got 16 bytes"):
            load(path)
    for damaged in (b"no array", npy_declaring((2,)).replace(b"}", b" ")):
        put(damaged)
        with pytest.raises(ValueError, match="NumPy's .npy format"):
            load(path)


def test_a_broken_archive_and_an_empty_one_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK broken")
    with pytest.raises(ValueError, match="zip archive of arrays at .*a.npz"):
        load(path)
    np.savez(path)
    with pytest.raises(ValueError, match="archive that is empty"):
        load(path)


def test_a_pt_file_that_needs_unpickling_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    for content, message in (
        ({"x": torch.ones(2), "n": 3}, "by name in .* got int at 'n'"),
        ([torch.ones(2)], "got list at 'x'"),
        ({"x": collections.UserDict()}, "holds something else or is damaged: "),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            load(path)
    for damaged in (b"no tensors", pickle.dumps(os.getcwd, protocol=2)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="holds something else or is damaged: "):
            load(path)


def test_a_file_is_binarized_only_within_the_unit_interval(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([[0.0, 1.0, np.nan]] * 3), t=np.arange(3))
    for how in ("static", "threshold"):
        x = load(path, split="all", binarize=how).tensors["x"]
        assert x[:, :2].tolist() == [[0.0, 1.0]] * 3 and x[:, 2].isnan().all()
    assert load(path, split="all", binarize="dynamic").dynamic == {"x"}
    np.savez(path, x=np.array([[0.0, 3.0]]))
    with pytest.raises(ValueError, match=r"within \[0, 1\] to binarize at 'x' of 'a', got 0 to 3"):
        load(path, split="all", binarize="static")
    np.savez(path, t=np.ones(3))
    with pytest.raises(ValueError, match="a key 'x' to binarize"):
        load(path, split="all", binarize="dynamic")


def test_paths_that_are_no_data_file_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("1")
    (tmp_path / "b.npy").touch()
    np.save(tmp_path / "c.npy", np.ones((5, 2)))
    for path, message in (
        (tmp_path, "for images use 'image_folder:"),
        (tmp_path / "a.txt", "ending in .npy, .npz, .csv, .parquet, .pt"),
        (tmp_path / "b.npy", "b.npy, which is empty"),
        (tmp_path / "none.npy", "none.npy, which does not exist"),
        (tmp_path / "c.npy", "enough rows for every split, got 5 rows .*use split='all'"),
    ):
        with pytest.raises(ValueError, match=message):
            load(path)
