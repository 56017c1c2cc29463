r"""A variational autoencoder for a table: columns of five kinds, told by the same causes.

Story
    Each row of a table has real numbers, positive amounts, counts, yes-or-no answers and choices among `K` options. A few
    standard normal causes decide them all: one network reads the causes, and each kind of column has the
    distribution that suits it. This is `gaussian_vae` with a site for each kind of column; a cell that is empty (NaN)
    is not scored.

Program
    z ~ Normal(0, I_D)
    real ~ Normal(loc(z), real_scale^2)
    amount ~ LogNormal(log_typical(z), amount_spread)
    count ~ Poisson(rate(z))
    answer ~ Bernoulli(logits(z))
    choice ~ Categorical(logits(z))

Graph
    +-- data (n) ---------------------------------------------+
    |   (z) ---> [real] [amount] [count] [answer] [choice]    |
    +---------------------------------------------------------+
    decoder ---> all of them

Sites
    | name   | role     | shape | support     | unit           |
    |--------|----------|-------|-------------|----------------|
    | z      | latent   | (D,)  | real        | standard       |
    | real   | observed | (R,)  | real        | the data's own |
    | amount | observed | (A,)  | positive    | the data's own |
    | count  | observed | (C,)  | count       | events         |
    | answer | observed | (Y,)  | {0, 1}      | yes            |
    | choice | observed | (O,)  | {0,...,K-1} | category       |

Source
    A. Nazábal, P. M. Olmos, Z. Ghahramani, I. Valera (2020). Handling incomplete heterogeneous data using VAEs.
"""

__all__ = ["TabularVAE"]

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from ppvae.nets import MLP

MAX_LOG_RATE = 12.0  # a count of 160,000: a network that errs must not overflow
KINDS = ("real", "amount", "count", "answer", "choice")


class TabularVAE(PyroModule):
    """Columns of five kinds, decoded from standard normal causes.

    Arguments:
        columns: Number of columns of each kind, `(R, A, C, Y, O)`, each at least 1.
        num_options: Number `K` of options of a choice.
        latent_dim: Number `D` of causes.
        hidden: Widths of the decoder's hidden layers.
    """

    example: ClassVar[str] = "simulated"

    def __init__(
        self,
        columns: Sequence[int] = (3, 2, 2, 3, 2),
        num_options: int = 4,
        latent_dim: int = 3,
        hidden: Sequence[int] = (64,),
    ) -> None:
        super().__init__()
        real, amount, count, answer, choice = columns
        self.sizes = [real, amount, count, answer, choice * num_options]
        self.options = (choice, num_options)
        self.decoder = MLP(latent_dim, sum(self.sizes), hidden)
        self.real_scale: Any = PyroParam(torch.ones(real), constraints.positive)
        self.amount_spread: Any = PyroParam(torch.ones(amount), constraints.positive)
        self.register_buffer("zero", torch.zeros(latent_dim))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        latent_dim: int = 3,
        hidden: Sequence[int] = (64,),
    ) -> "TabularVAE":
        """The story for a table with the keys `real`, `amount`, `count`, `answer` and `choice`, `(B, columns)` each."""
        options = int(batch["choice"].nan_to_num(0.0).max()) + 1
        story = cls([batch[kind].shape[1] for kind in KINDS], options, latent_dim, hidden)
        sizes = batch["amount"].log().nanmean(0), batch["count"].nanmean(0).clamp_min(0.1).log()
        last: Any = story.decoder[-1]
        with torch.no_grad():  # start at the size of the numbers
            last.bias[story.sizes[0] : sum(story.sizes[:3])] = torch.cat(sizes)
        return story

    def forward(self, n: int) -> None:
        real_scale, spread = self.real_scale, self.amount_spread
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))  # (n, D)
            loc, log_typical, log_rate, odds, options = self.decoder(z).split(self.sizes, -1)
            pyro.sample("real", dist.Normal(loc, real_scale).to_event(1))
            pyro.sample("amount", dist.LogNormal(log_typical, spread).to_event(1))
            rate = log_rate.clamp_max(MAX_LOG_RATE).exp()
            pyro.sample("count", dist.Poisson(rate).to_event(1))
            pyro.sample("answer", dist.Bernoulli(logits=odds).to_event(1))
            options = options.unflatten(-1, self.options)  # (n, O, K)
            pyro.sample("choice", dist.Categorical(logits=options).to_event(1))
