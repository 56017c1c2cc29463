r"""Files that nobody vouches for: NumPy, tables of text, Parquet and torch, sound and damaged."""

import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from ppvae.data import load


def save(path: Path, columns: dict[str, np.ndarray]) -> None:
    if path.suffix == ".npz":
        np.savez_compressed(path, **columns)
    else:
        torch.save({key: torch.from_numpy(value) for key, value in columns.items()}, path)


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
    with pytest.raises(ValueError, match=f"6 at 'x' and 5 at 'y' .*a{suffix}"):
        load(path)


def test_fortran_order_and_a_bare_tensor_are_read(tmp_path):
    x = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    np.save(tmp_path / "a.npy", x)
    torch.save(torch.from_numpy(x), tmp_path / "a.pt")
    for name in ("a.npy", "a.pt"):
        assert np.array_equal(load(tmp_path / name, split="all").tensors["x"].numpy(), x)


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_a_table_of_text_is_columns_with_empty_cells_missing(tmp_path, suffix, separator):
    path = tmp_path / f"a{suffix}"
    path.write_text('"the, a";b;c\n1;;3\n4;nan;-6e-1\n'.replace(";", separator))
    x = load(path, split="all").tensors["x"]
    assert x.dtype == torch.float32 and x.isnan().tolist() == [[False, True, False]] * 2
    assert x[:, 2].tolist() == pytest.approx([3, -0.6])
    with pytest.raises(ValueError, match="key 'y' for labels=True"):
        load(path, split="all", labels=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.csv, which is empty"),
        ("a,b\n", r"at least one row.* shape \(0, 2\).*a.csv"),
        ("a,b\n1,2\n3\n", "a.csv, got: 2 cells in the header, 1 in line 3"),
        ("a,b\n1,2\n3,4,5\n", "a.csv, got: 2 cells in the header, 3 in line 3"),
        ("a,b\n1,2\n\n3,4\n", "0 in line 3"),
        ("a,b\n1,2\n3,cat\n", "column 'b' of .*a.csv, got 'cat' .* in line 3: replace text"),
        ("a,b\n1,inf\n", "finite numbers in column 'b' of .*a.csv, got inf in line 2"),
        ("1,2\n3,4\n", "a first line without the names of the columns: add a header"),
        ("\na,b\n", "0 cells in the header"),
        ("a,b\n\xff\n", "table of text in UTF-8 in .*a.csv, got: 'utf-8' codec"),
    ],
)
def test_a_table_of_text_with_a_fault_is_refused_by_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.csv", split="all")


def test_parquet_is_numeric_columns_with_nulls_missing(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    frame = pandas.DataFrame({"a": [1, 2], "b": [0.5, None], "c": ["u", "v"]})
    frame.to_parquet(path)
    with pytest.raises(ValueError, match="column 'c' of .*a.parquet, got 'u' .* in row 0"):
        load(path, split="all")
    frame.drop(columns="c").to_parquet(path)
    x = load(path, split="all").tensors["x"]
    assert x[:, 0].tolist() == [1, 2] and x[1, 1].isnan() and x.dtype == torch.float32
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.delattr("pyarrow.parquet")
    with pytest.raises(ValueError, match=r"pandas and pyarrow to read .*save the table as \.npz"):
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
    for name, message in (
        ("", "for images use 'image_folder:"),
        ("a.txt", "ending in .npy, .npz, .csv, .tsv, .parquet, .pt"),
        ("b.npy", "b.npy, which is empty"),
        ("none.npy", "none.npy, which does not exist"),
        ("c.npy", "enough rows for every split, got 5 rows .*use split='all'"),
    ):
        with pytest.raises(ValueError, match=message):
            load(tmp_path / name)
