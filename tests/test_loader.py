r"""Training from a torch DataLoader: its own order, its own draws, resumed within an epoch."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from streamed import N, assert_same, grey, trained
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ppvae.data import Rows, as_rows, open_rows
from ppvae.data.loader import LoaderRows
from ppvae.storage.run_folder import RunFolder
from ppvae.training import Trainer


class Noisy(Dataset[Any]):
    """Rows that are augmented whenever they are taken, by all three generators."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> torch.Tensor:
        noise = torch.randn(3) + random.random() + np.random.rand()
        return torch.tensor(grey(np.float32)[index]) + 0.1 * noise


class Flow(IterableDataset[Any]):
    """A stream of unknown length."""

    def __iter__(self) -> Any:
        return iter(torch.tensor(grey(np.float32)))


class Batches(IterableDataset[Any]):
    """Makes batches by itself; its length counts those."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return iter(torch.tensor(grey(np.float32))[:12].split(4))


def loader(kind: str) -> DataLoader[Any]:
    if kind == "flow":
        return DataLoader(Flow(), batch_size=4)
    generator = torch.Generator() if kind == "seeded" else None
    workers = 2 if kind == "workers" else 0
    return DataLoader(
        Noisy(), batch_size=16, shuffle=True, generator=generator, num_workers=workers
    )


def test_a_loader_keeps_its_order_and_is_cut_anew():
    values = torch.tensor(grey(np.float32))
    for given in (
        DataLoader(TensorDataset(values), batch_size=4),
        DataLoader(TensorDataset(values), batch_size=40),
        DataLoader(Flow(), batch_size=7),
    ):
        rows = open_rows(given)
        batches = list(rows.batches(10, shuffle=True))
        assert [len(b["x"]) for b in batches] == [10, 10, 10, 10, 7] and len(rows) == N
        assert torch.equal(torch.cat([b["x"] for b in batches]), values)
        assert torch.equal(as_rows(given).tensors["x"], values)


def test_a_pass_over_a_loader_is_fixed_by_its_generator_and_leaves_other_draws_alone():
    rows = open_rows(loader("seeded"))
    torch.manual_seed(5)
    plain = torch.rand(3)
    torch.manual_seed(5)
    passes = [
        torch.cat([b["x"] for b in rows.batches(10, generator=torch.Generator().manual_seed(seed))])
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.rand(3), plain)
    assert torch.equal(passes[0], passes[1]) and not torch.equal(passes[0], passes[2])


def test_a_loader_says_how_many_rows_it_gives():
    values = TensorDataset(torch.tensor(grey(np.float32)))
    assert len(open_rows(DataLoader(values, batch_size=10, drop_last=True))) == 40
    assert len(open_rows(DataLoader(Flow(), batch_size=10, drop_last=True))) == 40
    groups = [[0, 1, 2], [5, 6]]
    assert len(open_rows(DataLoader(values, batch_sampler=groups))) == 5
    assert len(LoaderRows(DataLoader(Batches(), batch_size=None))) == 12
    lying = open_rows(DataLoader(Flow(), batch_size=10))
    for length, got in ((40, "more"), (50, "47")):
        object.__setattr__(lying, "num_rows", length)
        with pytest.raises(ValueError, match=f"expected {length} rows in every pass .* got {got}"):
            list(lying.batches(10))
    sampler = torch.utils.data.DistributedSampler(values, num_replicas=2, rank=0)
    with pytest.raises(ValueError, match="got one with a DistributedSampler"):
        open_rows(DataLoader(values, sampler=sampler))
    with pytest.raises(ValueError, match="got an empty loader"):
        open_rows(DataLoader([], batch_size=1))


@pytest.mark.parametrize("kind", ["plain", "seeded", "workers", "flow"])
def test_a_run_over_a_loader_resumes_bit_for_bit_within_an_epoch(tmp_path, monkeypatch, kind):
    whole = trained(loader(kind), loader(kind), run_dir=tmp_path / "whole", checkpoint_every=0)
    plain, count = Trainer._run_step, iter(range(1000))

    def killed(self: Any, *rest: Any) -> Any:
        if next(count) == 7:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return plain(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_run_step", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(loader(kind), loader(kind), run_dir=tmp_path / "cut", checkpoint_every=0)
    kept = RunFolder.create(tmp_path / "cut", {}, resume=True).checkpoints.newest_first()[0].name
    assert kept == "epoch_000001_batch_000002"
    resumed = trained(
        loader(kind), loader(kind), run_dir=tmp_path / "cut", checkpoint_every=0, resume=True
    )
    assert_same(whole, resumed)


def test_a_loader_in_order_trains_as_rows_that_are_not_shuffled(monkeypatch):
    values = torch.tensor(grey(np.float32))
    streamed = trained(DataLoader(TensorDataset(values), batch_size=6))
    taken = Rows.batches
    monkeypatch.setattr(
        Rows, "batches", lambda self, size, *, generator, shuffle: taken(self, size)
    )
    assert_same(streamed, trained(values))
    assert isinstance(open_rows(DataLoader(values)), LoaderRows)
