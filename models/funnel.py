r"""Funnel: a number and the scale that it was drawn with, both hidden.

Story
    Each row has a log scale and a number drawn with that scale; only the number is seen, with
    noise. A small scale forces the number towards zero, a large one lets it go: the posterior is
    wide at one end and narrow at the other.

Program
    v ~ Normal(0, 3^2)
    w ~ Normal(0, exp(v / 2)^2)
    x ~ Normal(w, noise_scale^2)

Graph
    +-- data (n) ------------------+
    |   (v) ---> (w) ---> [x]      |
    +------------------------------+
    noise_scale ---> [x]

Sites
    | name | role     | shape | support | unit          |
    |------|----------|-------|---------|---------------|
    | v    | latent   | ()    | real    | nat           |
    | w    | latent   | ()    | real    | the data's own |
    | x    | observed | ()    | real    | the data's own |

Exact results
    Given v, x ~ Normal(0, exp(v) + noise_scale^2); one integral over v gives the evidence.

Source
    R. M. Neal (2003). Slice sampling.
"""

__all__ = ["Funnel"]

from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints


class Funnel(PyroModule):
    """Neal's funnel in two dimensions, with a noisy look at its mouth.

    Arguments:
        noise_scale: Standard deviation of the noise, in the data's unit.
    """

    example: ClassVar[str] = "simulated"

    def __init__(self, noise_scale: float = 1.0) -> None:
        super().__init__()
        self.noise_scale: Any = PyroParam(torch.tensor(noise_scale), constraints.positive)
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            v = pyro.sample("v", dist.Normal(self.zero, 3.0))
            w = pyro.sample("w", dist.Normal(self.zero, (v / 2).exp()))
            pyro.sample("x", dist.Normal(w, self.noise_scale))
