r"""Rows in memory: batches, redrawn bits, and everything that `as_rows` takes or refuses."""

import numpy as np
import pandas
import pytest
import scipy.sparse
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


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
        assert batch["c"].tolist() == [2.0, 3.0, 4.0] and batch["x"].shape == (3, 3)
    assert rows.batch()["c"].shape == (10,)


def test_a_pass_meets_every_row_once_in_order_or_in_one_seeded_permutation():
    in_order = list(counting().batches(4))
    assert [len(batch["c"]) for batch in in_order] == [4, 4, 2]
    assert torch.cat([batch["c"] for batch in in_order]).tolist() == list(range(10))

    def shuffled(seed: int) -> torch.Tensor:
        batches = list(counting().batches(4, shuffle=True, generator=seeded(seed)))
        c = torch.cat([batch["c"] for batch in batches])
        assert torch.equal(torch.cat([batch["x"] for batch in batches])[:, 0], 3 * c)
        return c

    assert shuffled(1).tolist() != list(range(10)) == sorted(shuffled(1).tolist())
    assert torch.equal(shuffled(1), shuffled(1)) and not torch.equal(shuffled(1), shuffled(2))


def test_head_subset_and_to_keep_names_and_dynamic():
    rows = probabilities(6).to(dtype=torch.float32)
    assert rows.head(2).dynamic == {"x"} and len(rows.head(2)) == 2
    assert rows.subset(torch.tensor([5, 0])).batch()["x"].dtype == torch.float32
    assert rows.names == ("x",) and rows.device.type == "cpu"
    assert repr(rows) == "Rows(greys: 6 rows; x (5,) float32 redrawn)"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (slice(3, 3), r"takes at least one row, got slice\(3, 3"),
        (slice(None, None, -1), "slice in rising order.*-1"),
        (torch.tensor([0, 10]), "from 0 to 9 of 'data'.* got 0 to 10"),
        (torch.tensor([-1]), "got -1 to -1"),
        (torch.tensor([0.5]), r"row numbers \(B,\).*float32"),
        (torch.zeros(10, dtype=torch.bool), "at least one row, got torch.bool"),
        (torch.zeros(9, dtype=torch.bool), r"a mask \(10,\).*of shape \(9,\)"),
        ([0, 1], r"got \[0, 1\]"),
    ],
)
def test_a_wrong_index_is_refused(index, message):
    with pytest.raises(ValueError, match=message):
        counting().batch(index)


def test_wrong_sizes_are_refused_before_the_first_batch():
    with pytest.raises(ValueError, match="batch size of at least 1 row, got 0"):
        counting().batches(0)
    with pytest.raises(ValueError, match="expected 1 to 10 rows of 'data', got n=11"):
        counting().head(11)
    with pytest.raises(ValueError, match=r"floating dtype.*int64"):
        counting().to(dtype=torch.int64)


# -- redrawn bits -------------------------------------------------------------------------------


def test_redrawn_bits_have_the_probabilities_as_means_and_missing_values_stay():
    rows = probabilities()
    bits = rows.batch(generator=seeded(0))["x"]
    assert set(bits[:, :4].unique().tolist()) == {0.0, 1.0} and bits[:, 4].isnan().all()
    assert bits[:, 0].sum() == 0 and bits[:, 3].sum() == len(rows)
    for column, p in ((1, 0.2), (2, 0.9)):
        std_error = (p * (1 - p) / len(rows)) ** 0.5
        assert abs(bits[:, column].mean() - p) < 4 * std_error


def test_bits_differ_between_batches_agree_for_one_seed_and_may_be_drawn_once():
    rows, generator = probabilities(), seeded(0)
    first, second = (rows.batch(slice(50), generator)["x"][:, :4] for _ in range(2))
    again = rows.batch(slice(50), seeded(0))["x"][:, :4]
    assert not torch.equal(first, second) and torch.equal(first, again)
    assert rows.tensors["x"][0, 1] == 0.2  # the probabilities are untouched
    once, same, other = (rows.binarize_once(seed) for seed in (3, 3, 4))
    assert once.dynamic == frozenset()
    bits = [drawn.batch()["x"][:, :4] for drawn in (once, once, same, other)]
    assert [torch.equal(bits[0], b) for b in bits] == [True, True, True, False]
    half = Rows({"x": torch.full((8, 2), 0.5, dtype=torch.bfloat16)}, dynamic=frozenset({"x"}))
    assert half.batch()["x"].dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_seed_gives_the_same_bits_and_order_on_every_device():
    taken = []
    for rows in (probabilities(100), probabilities(100).to("cuda")):
        batches = rows.batches(32, shuffle=True, generator=seeded(0))
        taken.append(torch.cat([batch["x"][:, :4].cpu() for batch in batches]))
    assert torch.equal(*taken)


@pytest.mark.parametrize(
    ("tensors", "dynamic", "message"),
    [
        ({}, (), "at least one named tensor"),
        ({"x": torch.ones(2, 1), "c": torch.ones(3)}, (), "2 at 'x' and 3 at 'c'"),
        ({"x": torch.ones(0, 4)}, (), r"at least one row.* at 'x', got .* shape \(0, 4\)"),
        ({"x": torch.tensor(1.0)}, (), r"shape \(N, \*event\), at 'x', got .* shape \(\)"),
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
        (np.ma.masked_array(np.ones((3, 2), np.float32)), torch.float32),
        (scipy.sparse.csr_array(np.ones((3, 2))), torch.float64),
        (pandas.DataFrame({"a": [1, 1, 1], "b": [True, True, True]}), torch.float64),
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


def test_a_dict_names_sites_and_covariates_whose_gradients_are_left_behind():
    x = torch.tensor([[1.0, float("nan")]], requires_grad=True)
    rows = as_rows({"x": x, "dose": torch.arange(1)}, name="trial")
    assert rows.names == ("x", "dose") and rows.name == "trial" and as_rows(rows) is rows
    assert rows.tensors["x"][0, 1].isnan() and not rows.tensors["x"].requires_grad
    assert rows.tensors["dose"].dtype == torch.float32


def test_masked_cells_and_those_that_a_frame_lacks_are_missing():
    holes = [[False, True], [True, False]]
    masked = np.ma.masked_array(np.arange(4).reshape(2, 2), holes)
    frame = pandas.DataFrame({"a": pandas.array([0, None], dtype="Int64"), "b": [np.nan, 3.0]})
    for data in (masked, frame):
        x = as_rows(data).tensors["x"]
        assert x.isnan().tolist() == holes and x.nan_to_num(0).tolist() == [[0, 0], [0, 3]]
    one = as_rows({"x": frame, "age": frame["a"]})
    assert one.tensors["age"].shape == (2,) and one.tensors["age"].isnan().tolist() == [False, True]


@pytest.mark.parametrize("count", [1, 700])
def test_a_data_set_and_its_loader_give_the_same_rows(count):
    state = torch.get_rng_state()
    direct = as_rows(Pairs(count))
    assert torch.equal(torch.get_rng_state(), state)
    loaded = as_rows(DataLoader(Pairs(count), batch_size=64))
    assert direct.names == loaded.names == ("x", "y") and len(direct) == count
    assert all(torch.equal(direct.tensors[name], loaded.tensors[name]) for name in direct.names)
    assert direct.tensors["y"].dtype == torch.float32


def test_items_may_be_tensors_dicts_or_streamed():
    x = torch.randn(5, 2, generator=seeded(0))
    named = Stream([{"x": row, "t": 0.5} for row in x])
    for data in (TensorDataset(x), Stream(list(x)), named):
        assert torch.equal(as_rows(data).tensors["x"], x)
    assert as_rows(named).tensors["t"].dtype == torch.float32


FRAMES = {
    "text": (["u", "v"], r"numbers in column 'c' of the data at 'x', got 'u' \(str\) in row 0"),
    "mixed": ([1.0, "v"], r"column 'c' .*got 'v' \(object\) in row 1: replace text"),
    "category": (pandas.Categorical(["u", "v"]), r"'u' \(category\) in row 0: .*by codes"),
    "date": (pandas.to_datetime(["2020", "2021"]), r"datetime64.* dates by numbers"),
    "infinite": ([0.5, np.inf], "finite numbers in column 'c' .*got inf in row 1"),
}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.tensor(1.0), r"\(N, \*event\), at 'x', got a tensor of shape \(\)"),
        (3.0, r"at 'x', got a tensor of shape \(\)"),
        (torch.ones(0, 3), r"at least one row.* shape \(0, 3\)"),
        ({}, "at least one named tensor"),
        ({1: torch.ones(2)}, "names that are non-empty strings in 'data', got 1"),
        ({"a": torch.ones(2), "b": torch.ones(3)}, "2 at 'a' and 3 at 'b'"),
        ({"x": torch.tensor([1.0, float("inf")])}, "finite numbers.*at 'x', got infinity"),
        ({"x": np.array([-np.inf, 0.0])}, "at 'x', got infinity"),
        ({"x": torch.ones(2, dtype=torch.complex64)}, "dense real numbers at 'x'.*complex64"),
        ({"x": torch.eye(2).to_sparse()}, "dense real numbers at 'x'"),
        ({"x": np.ones(2, dtype=complex)}, "real numbers at 'x', got dtype complex128"),
        ({"s": np.array(["a", "b"])}, "real numbers at 's', got dtype <U1"),
        ({"s": np.array([1, None])}, "real numbers at 's', got dtype object.* None by NaN"),
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
        *[(pandas.DataFrame({"b": [1, 2], "c": c}), m) for c, m in FRAMES.values()],
        ({"x": pandas.Series(["u", "v"])}, "numbers in column 'x' of the data, got 'u'"),
    ],
)
def test_what_is_not_rows_of_numbers_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        as_rows(data)
