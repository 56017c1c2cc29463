r"""Small rows, the stories that they are trained with, and the training."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

import ppvae

N = 47


class Grey(PyroModule):
    """Two causes move three grey values."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = ppvae.nets.MLP(2, 3, hidden=(8,))

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1))


class Coins(Grey):
    """The same causes move coins."""

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1))


def grey(dtype: Any = np.float64, n: int = N) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(n, 3)) * 2 + 4
    return np.clip(values, 0, 9).astype(dtype)


def trained(data: Any, val: Any = None, story: Any = None, **options: Any) -> tuple[Any, Any]:
    """Weights, and records without the clock, of two epochs."""
    torch.manual_seed(0)
    story = story or Grey()
    guide = ppvae.guides.build("mean_field", story, data, hidden=(8,))
    given = {"epochs": 2, "batch_size": 10, "lr": 0.01, "progress": False}
    history = ppvae.fit(story, guide, data, val=val, **{**given, **options})
    weights = {**story.state_dict(), **{f"guide.{k}": v for k, v in guide.state_dict().items()}}
    clock = ("seconds", "rows_per_second")
    return weights, [{k: v for k, v in r.items() if k not in clock} for r in history.records]


def assert_same(one: tuple[Any, Any], two: tuple[Any, Any]) -> None:
    assert one[1] == two[1]
    assert all(torch.equal(one[0][k], two[0][k]) for k in one[0])
