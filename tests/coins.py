r"""A small story and a small run of it, for the tests of what training survives."""

from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

import ppvae

EPOCHS, STEPS = 3, 4


class Coins(PyroModule):
    """Two causes move three numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = ppvae.nets.MLP(2, 3, hidden=(8,))

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1))


def train(run: Path | None = None, **options: Any) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """Weights and records of a small run over rows that are redrawn at each step."""
    torch.manual_seed(0)
    rows = ppvae.data.Rows({"x": torch.rand(40, 3)}, dynamic=frozenset({"x"}))
    story = options.pop("story", None) or Coins()
    guide = ppvae.guides.build("mean_field", Coins(), rows, hidden=(8,))
    given = {
        "val": rows.head(10).binarize_once(0),
        "epochs": EPOCHS,
        "batch_size": 10,
        "lr": 0.01,
        "checkpoint_every": 0,
    }
    history = ppvae.fit(story, guide, rows, progress=False, run_dir=run, **{**given, **options})
    weights = {**story.state_dict(), **{f"guide.{k}": v for k, v in guide.state_dict().items()}}
    return weights, timeless(history.records)


def timeless(records: list[Any]) -> list[Any]:
    clock = ("seconds", "rows_per_second")
    return [{k: v for k, v in record.items() if k not in clock} for record in records]


def same(one: Any, two: Any) -> bool:
    weights = one[0].keys() == two[0].keys()
    return weights and all(torch.equal(one[0][k], two[0][k]) for k in one[0]) and one[1] == two[1]
