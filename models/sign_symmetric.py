r"""Sign-symmetric: the size of a cause is seen with noise, its sign never.

Story
    Each row has `D` standard normal causes. A gauge reports the size of each, disturbed by noise;
    nothing tells the sign. The posterior has a piece for each choice of signs, `2^D` alike: a
    Gaussian that sits on one of them is as good there as it can be, and still low by `D log 2`
    nats.

Program
    z ~ Normal(0, I_D)
    x ~ Normal(|z|, noise_scale^2 I_D)

Graph
    +-- data (n) --------+
    |   (z) ---> [x]     |
    +--------------------+
    noise_scale ---> [x]

Sites
    | name | role     | shape | support | unit     |
    |------|----------|-------|---------|----------|
    | z    | latent   | (D,)  | real    | standard |
    | x    | observed | (D,)  | real    | standard |

Exact results
    Evidence, number by number: 2 Normal(x; 0, 1 + s^2) Phi(x / (s sqrt(1 + s^2))) with s =
    noise_scale.

Source
    R. M. Neal (1993). Probabilistic inference using Markov chain Monte Carlo methods (on symmetric
    modes).
"""

__all__ = ["SignSymmetric"]

from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints


class SignSymmetric(PyroModule):
    """Sizes of standard normal causes with noise; closed-form evidence.

    Arguments:
        latent_dim: Number `D` of causes.
        noise_scale: Standard deviation of the noise, in units of a cause's own.
    """

    example: ClassVar[str] = "simulated"

    def __init__(self, latent_dim: int = 1, noise_scale: float = 0.1) -> None:
        super().__init__()
        self.noise_scale: Any = PyroParam(torch.tensor(noise_scale), constraints.positive)
        self.register_buffer("zero", torch.zeros(latent_dim))

    @classmethod
    def from_data(cls, batch: Mapping[str, Tensor], noise_scale: float = 0.1) -> "SignSymmetric":
        """The story for rows like `batch["x"]`, with shape `(B, D)`."""
        return cls(batch["x"].shape[-1], noise_scale)

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))  # (n, D)
            pyro.sample("x", dist.Normal(z.abs(), self.noise_scale).to_event(1))

    def log_evidence(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The exact log p(x) of each row, `(B,)`, in nats."""
        noise = self.noise_scale
        spread = (1 + noise.square()).sqrt()
        log_two_sided = dist.Normal(0.0, spread).log_prob(batch["x"]) + torch.tensor(2.0).log()
        log_one_side = torch.special.log_ndtr(batch["x"] / (noise * spread))
        return (log_two_sided + log_one_side).sum(-1)
