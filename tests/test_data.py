r"""Rows in memory: batches, redrawn bits, and everything that `as_rows` takes or refuses."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ppvae.data import Rows, as_rows


class Pairs(Dataset):
    r"""Items (x, label): label is a Python int."""

    def __init__(self, count: int) -> None:
        self.x = torch.arange(2.0 * count).reshape(count, 2)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int):
        return self.x[index], index % 3


class Stream(IterableDataset):
    def __init__(self, items) -> None:
        self.items = items

    def __iter__(self):
        return iter(self.items)


def counting(n: int = 10) -> Rows:
    return Rows({"x": torch.arange(3.0 * n).reshape(n, 3), "c": torch.arange(float(n))})


def probabilities(n: int = 4000) -> Rows:
    p = torch.tensor([0.0, 0.2, 0.9, 1.0, float("nan")], dtype=torch.float64).expand(n, 5)
    return Rows({"x": p.clone()}, dynamic=frozenset({"x"}), name="greys")


# -- batches ------------------------------------------------------------------------------------


def test_a_batch_takes_the_same_rows_by_slice_numbers_or_mask():
    rows = counting()
    mask = torch.zeros(10, dtype=torch.bool)
    mask[2:5] = True
    for index in (slice(2, 5), torch.tensor([2, 3, 4]), mask):
        batch = rows.batch(index)
        assert batch["c"].tolist() == [2.0, 3.0, 4.0]
        assert batch["x"].shape == (3, 3)
    assert rows.batch()["c"].shape == (10,)


def test_a_pass_in_order_meets_every_row_once():
    batches = list(counting().batches(4))
    assert [len(batch["c"]) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch["c"] for batch in batches]).tolist() == list(range(10))


def test_a_shuffled_pass_is_one_permutation_with_names_kept_together():
    batches = list(counting().batches(4, shuffle=True, generator=torch.Generator().manual_seed(0)))
    c = torch.cat([batch["c"] for batch in batches])
    x = torch.cat([batch["x"] for batch in batches])
    assert c.tolist() != list(range(10)) and sorted(c.tolist()) == list(range(10))
    assert torch.equal(x[:, 0], 3 * c)


def test_a_seed_fixes_the_order_of_a_shuffled_pass():
    def order(seed: int) -> list[float]:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([b["c"] for b in counting().batches(3, shuffle=True, generator=generator)])

    assert torch.equal(order(1), order(1)) and not torch.equal(order(1), order(2))


def test_drop_last_leaves_out_the_short_batch_only():
    assert [len(b["c"]) for b in counting().batches(4, drop_last=True)] == [4, 4]
    assert [len(b["c"]) for b in counting(8).batches(4, drop_last=True)] == [4, 4]


def test_head_subset_and_to_keep_names_and_dynamic():
    rows = probabilities(6).to(dtype=torch.float32)
    assert rows.head(2).dynamic == {"x"} and len(rows.head(2)) == 2
    assert rows.subset(torch.tensor([5, 0])).batch()["x"].dtype == torch.float32
    assert rows.names == rows.keys() == ("x",) and rows.device.type == "cpu"
    assert repr(rows) == "Rows(greys: 6 rows; x (5,) float32 redrawn)"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (slice(3, 3), "slice that takes at least one of 10 rows"),
        (slice(None, None, -1), "in rising order"),
        (torch.tensor([0, 10]), "row numbers from 0 to 9 of 'data', got 0 to 10"),
        (torch.tensor([-1]), "got -1 to -1"),
        (torch.tensor([0.5]), r"row numbers of shape \(B,\).*float32"),
        (torch.zeros(10, dtype=torch.bool), "true somewhere"),
        (torch.zeros(9, dtype=torch.bool), r"mask of shape \(10,\)"),
        ([0, 1], "a tensor of row numbers, a slice or None, got list"),
    ],
)
def test_a_wrong_index_is_refused(index, message):
    with pytest.raises(ValueError, match=message):
        counting().batch(index)


def test_wrong_sizes_are_refused_before_the_first_batch():
    with pytest.raises(ValueError, match="batch size of at least 1 row, got 0"):
        counting().batches(0)
    with pytest.raises(ValueError, match="every row of 'data' would be dropped"):
        counting().batches(11, drop_last=True)
    with pytest.raises(ValueError, match="expected 1 to 10 rows of 'data', got n=11"):
        counting().head(11)
    with pytest.raises(ValueError, match=r"floating dtype.*int64"):
        counting().to(dtype=torch.int64)


# -- redrawn bits -------------------------------------------------------------------------------


def test_redrawn_bits_have_the_probabilities_as_means():
    rows = probabilities()
    bits = rows.batch(generator=torch.Generator().manual_seed(0))["x"]
    assert set(bits[:, :4].unique().tolist()) == {0.0, 1.0}
    assert bits[:, 0].sum() == 0 and bits[:, 3].sum() == len(rows)
    for column, p in ((1, 0.2), (2, 0.9)):
        std_error = (p * (1 - p) / len(rows)) ** 0.5
        assert abs(bits[:, column].mean() - p) < 4 * std_error


def test_a_missing_value_stays_missing_when_redrawn():
    assert probabilities().batch()["x"][:, 4].isnan().all()


def test_bits_differ_between_batches_and_agree_for_one_seed():
    rows, generator = probabilities(), torch.Generator().manual_seed(0)
    first, second = (rows.batch(slice(50), generator)["x"][:, :4] for _ in range(2))
    again = rows.batch(slice(50), torch.Generator().manual_seed(0))["x"][:, :4]
    assert not torch.equal(first, second) and torch.equal(first, again)
    assert rows.tensors["x"][0, 1] == 0.2  # the probabilities are untouched


def test_frozen_rows_hold_the_same_bits_for_good():
    frozen = probabilities().binarize_once(3)
    assert frozen.dynamic == frozenset()
    same = torch.equal(
        frozen.batch()["x"][:, :4], probabilities().binarize_once(3).batch()["x"][:, :4]
    )
    assert same and not torch.equal(
        frozen.batch()["x"][:, :4], probabilities().binarize_once(4).batch()["x"][:, :4]
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_seed_gives_the_same_bits_and_order_on_every_device():
    rows = probabilities(100)

    def taken(rows: Rows) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        batches = rows.batches(32, shuffle=True, generator=generator)
        return torch.cat([batch["x"][:, :4].cpu() for batch in batches])

    assert torch.equal(taken(rows), taken(rows.to("cuda")))


def test_half_precision_probabilities_are_redrawn_in_half_precision():
    rows = Rows({"x": torch.full((8, 2), 0.5, dtype=torch.bfloat16)}, dynamic=frozenset({"x"}))
    assert rows.batch()["x"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("tensors", "dynamic", "message"),
    [
        ({}, (), "at least one named tensor"),
        ({"x": torch.ones(2, 1), "c": torch.ones(3)}, (), "2 at 'x' and 3 at 'c'"),
        ({"x": torch.ones(0, 4)}, (), r"empty tensor of shape \(0, 4\) at 'x'"),
        ({"x": torch.tensor(1.0)}, (), r"single number of shape \(\)"),
        ({"x": torch.ones(2, dtype=torch.int64)}, (), "floating tensor at 'x', got torch.int64"),
        ({"x": torch.ones(2), "c": torch.ones(2, device="meta")}, (), "on one device"),
        ({"x": torch.ones(2)}, {"y"}, "dynamic names among"),
        ({"x": torch.tensor([0.5, 1.5])}, {"x"}, r"within \[0, 1\] at the dynamic name 'x'"),
    ],
)
def test_rows_refuse_what_they_cannot_be(tensors, dynamic, message):
    with pytest.raises(ValueError, match=message):
        Rows(tensors, frozenset(dynamic))


# -- as_rows ------------------------------------------------------------------------------------


def test_rows_are_returned_as_they_are():
    rows = counting()
    assert as_rows(rows) is rows


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (torch.ones(3, 2, dtype=torch.float64), torch.float64),
        (torch.ones(3, 2, dtype=torch.float16), torch.float16),
        (torch.ones(3, 2, dtype=torch.uint8), torch.float32),
        (torch.ones(3, 2, dtype=torch.bool), torch.float32),
        (np.ones((3, 2)), torch.float64),
        (np.ones((3, 2), dtype=">f4"), torch.float32),
        (np.ones((6, 2), dtype=np.int16)[::-2], torch.float32),
        ([[1.0, 1.0]] * 3, torch.float32),
        ([[1, 1]] * 3, torch.float32),
    ],
)
def test_a_bare_array_is_the_site_x_with_floats_kept(data, dtype):
    x = as_rows(data).tensors["x"]
    assert x.shape == (3, 2) and x.dtype == dtype and bool((x == 1).all())


def test_integers_take_the_default_dtype_of_the_moment():
    torch.set_default_dtype(torch.float64)
    try:
        assert as_rows(np.arange(3)).tensors["x"].dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_dict_names_sites_and_covariates():
    rows = as_rows({"x": np.ones((4, 2)), "dose": torch.arange(4)}, name="trial")
    assert rows.names == ("x", "dose") and rows.name == "trial"
    assert rows.tensors["dose"].dtype == torch.float32


def test_missing_values_pass_and_gradients_do_not():
    x = torch.tensor([[1.0, float("nan")]], requires_grad=True)
    taken = as_rows(x).tensors["x"]
    assert taken[0, 1].isnan() and not taken.requires_grad


@pytest.mark.parametrize("count", [1, 700])
def test_a_data_set_and_its_loader_give_the_same_rows(count):
    direct, loaded = as_rows(Pairs(count)), as_rows(DataLoader(Pairs(count), batch_size=64))
    assert direct.names == loaded.names == ("x", "y") and len(direct) == count
    for name in direct.names:
        assert torch.equal(direct.tensors[name], loaded.tensors[name])
    assert direct.tensors["y"].dtype == torch.float32


def test_items_may_be_tensors_dicts_or_streamed():
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_rows(TensorDataset(x)).tensors["x"], x)
    assert torch.equal(as_rows(Stream(list(x))).tensors["x"], x)
    items = [{"x": row, "t": 0.5} for row in x]
    streamed = as_rows(Stream(items))
    assert torch.equal(streamed.tensors["x"], x)
    assert streamed.tensors["t"].dtype == torch.float32


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.tensor(1.0), r"\(N, \*event\) at 'x', got a single number"),
        (3.0, "single number"),
        (torch.ones(0, 3), "at least one row, got an empty tensor"),
        ({}, "at least one named tensor"),
        ({1: torch.ones(2)}, "keys that are non-empty strings, got 1"),
        ({"a": torch.ones(2), "b": torch.ones(3)}, "2 at 'a' and 3 at 'b'"),
        ({"x": torch.tensor([1.0, float("inf")])}, "finite numbers.*at 'x', got infinity"),
        ({"x": np.array([-np.inf, 0.0])}, "at 'x', got infinity"),
        ({"x": torch.ones(2, dtype=torch.complex64)}, "dense real numbers at 'x'.*complex64"),
        ({"x": torch.eye(2).to_sparse()}, "dense real numbers at 'x'"),
        ({"x": np.ones(2, dtype=complex)}, "real numbers at 'x', got dtype complex128"),
        ({"s": np.array(["a", "b"])}, "real numbers at 's', got dtype <U1"),
        ({"s": np.array([1, None])}, "real numbers at 's', got dtype object"),
        ([[1.0], [1.0, 2.0]], "array of numbers at 'x', got list"),
        ({"x": np.array([2**24 + 1])}, r"integers below 16777216 in size at 'x'"),
        ((torch.ones(2), torch.ones(2)), "tuple of 2: name the parts with a dict"),
        (object(), "got dtype object"),
        (Pairs(0), "at least one row, got an empty data set"),
        (DataLoader(Stream([])), "at least one row, got an empty data set"),
        (TensorDataset(*[torch.ones(2)] * 3), r"\(x,\) or \(x, y\), got 3 parts"),
        (Stream([torch.ones(2), torch.ones(3)]), "one shape in every item at 'x'"),
        (Stream([{"x": 1.0}, {"x": 1.0, "y": 2.0}]), r"names \['x'\] in every item"),
        (Stream([{"x": "cat"}, {"x": "dog"}]), "real numbers at 'x', got dtype <U3"),
        (DataLoader(Stream([torch.ones(2), torch.ones(3)])), "rows of one shape at 'x'"),
        (DataLoader(Stream([{"x": 1.0}, {"y": 1.0}])), r"names \['x'\] in every part"),
    ],
)
def test_what_is_not_rows_of_numbers_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        as_rows(data)
