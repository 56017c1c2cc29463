r"""A deep Markov model: a hidden state that moves in time, and at each step a chord that it plays.

Story
    Each row is a sequence of `T` steps; at each step some of `P` keys sound. A hidden state moves
    from step to step: a network gives the mean and scale of the next state from the last, with a
    gate between moving on by a straight line and by a curve. The state of the step decides, through
    a network, the chance that each key sounds. This is `vae` with a row's causes strung in time. A
    sequence that ends early is missing (NaN) from there on.

Program
    z_t ~ Normal(move(z_(t-1)))                  for t = 1, ..., T, from z_0 = start
    x ~ Bernoulli(logits = decoder(z_t))         the keys of step t

Graph
    +-- data (n) ------------------------------------+
    |   (z_1) ---> (z_2) ---> ... ---> (z_T)         |
    |     |          |                   |           |
    |   [x_.1]     [x_.2]              [x_.T]        |
    +------------------------------------------------+
    move ---> (z_t)    decoder ---> [x]

Sites
    | name | role     | shape  | support | unit     |
    |------|----------|--------|---------|----------|
    | z_t  | latent   | (D,)   | real    | standard |
    | x    | observed | (T, P) | {0, 1}  | key down |

Source
    R. G. Krishnan, U. Shalit, D. Sontag (2017). Structured inference networks for nonlinear state
    space models.
"""

__all__ = ["DeepMarkov"]

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppvae.nets import MLP

MIN_SCALE = 0.05


class Move(nn.Module):
    """From a state to the Normal of the next, `(*, D)` to loc and scale `(*, D)` each.

    Arguments:
        dim: Length `D` of a state.
        width: Hidden width.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.gate = MLP(dim, dim, (width,))
        self.curve = MLP(dim, dim, (width,))
        self.line = nn.Linear(dim, dim)
        self.raw_scale = nn.Linear(dim, dim)
        with torch.no_grad():  # start by staying where it is
            self.line.weight.copy_(torch.eye(dim))
            self.line.bias.zero_()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        gate, curve = self.gate(z).sigmoid(), self.curve(z)
        loc = (1 - gate) * self.line(z) + gate * curve
        return loc, F.softplus(self.raw_scale(F.relu(curve))) + MIN_SCALE


class DeepMarkov(PyroModule):
    """Keys that sound at each step, decoded from a hidden state that moves in time.

    Arguments:
        num_steps: Number `T` of steps.
        num_keys: Number `P` of keys.
        latent_dim: Length `D` of the state.
        width: Hidden width of the networks that move the state.
        hidden: Widths of the decoder's hidden layers.
    """

    example: ClassVar[str] = "simulated"

    def __init__(
        self,
        num_steps: int = 8,
        num_keys: int = 12,
        latent_dim: int = 3,
        width: int = 32,
        hidden: Sequence[int] = (50,),
    ) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.move = Move(latent_dim, width)
        self.decoder = MLP(latent_dim, num_keys, hidden)
        self.start = nn.Parameter(torch.zeros(latent_dim))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        latent_dim: int = 3,
        width: int = 32,
        hidden: Sequence[int] = (50,),
    ) -> "DeepMarkov":
        """The story for sequences like `batch["x"]`, with shape `(B, T, P)`."""
        num_steps, num_keys = batch["x"].shape[1:]
        return cls(num_steps, num_keys, latent_dim, width, hidden)

    def forward(self, n: int) -> None:
        start: Tensor = self.start
        with pyro.plate("data", n):
            z = start
            states: list[Tensor] = []
            for t in range(1, self.num_steps + 1):
                loc, scale = self.move(z)
                z = pyro.sample(f"z_{t}", dist.Normal(loc, scale).to_event(1))  # (n, D)
                states.append(z)
            logits = self.decoder(torch.stack(states, -2))  # (n, T, P)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(2))
