r"""A story with a label beside its numbers, and a guide that says little."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule


class Labelled(PyroModule):
    """A class and a cause decide a number: one observed site is the parent of another."""

    def forward(self, n):
        with pyro.plate("data", n):
            y = pyro.sample("y", dist.Categorical(torch.ones(3)))
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(10.0 * y + z, 1.0))


class LabelledGuide(PyroModule):
    def forward(self, batch):
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("z", dist.Normal(torch.zeros(len(batch["x"])), 0.001))
