r"""A variational autoencoder for a table: columns of five kinds, with the same causes.

Story
    Each row of a table has real numbers, positive amounts, counts, yes-or-no answers and choices
    among `K` options, or some of these kinds. A few standard normal causes decide them all: one
    network reads the causes, and each kind of column has the distribution that suits it, with a
    spread of its own. This is `gaussian_vae` with a site for each kind of column; a cell that is
    empty (NaN) is not scored.

Program
    z ~ Normal(0, I_D)
    real ~ Normal(loc(z), real_scale^2)
    amount ~ LogNormal(log_typical(z), amount_spread^2)
    count ~ GammaPoisson(mean = rate(z), variance = rate(z) + count_spread rate(z)^2)
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
    A. Nazábal, P. M. Olmos, Z. Ghahramani, I. Valera (2020). Handling incomplete heterogeneous data
    using VAEs.
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
NUMBERS = ("real", "amount", "count")
KINDS = (*NUMBERS, "answer", "choice")


class TabularVAE(PyroModule):
    """Columns of five kinds, decoded from standard normal causes.

    Arguments:
        columns: Number of columns of each kind, `(R, A, C, Y, O)`; a kind without columns has no
            site.
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
        self.kinds = [kind for kind, width in zip(KINDS, columns, strict=True) if width]
        self.sizes = [real, amount, count, answer, choice * num_options]
        self.options = (choice, num_options)
        self.decoder = MLP(latent_dim, sum(self.sizes), hidden)
        self.real_scale: Any = PyroParam(torch.ones(real), constraints.positive)
        self.amount_spread: Any = PyroParam(torch.ones(amount), constraints.positive)
        self.count_spread: Any = PyroParam(torch.full((count,), 0.1), constraints.positive)
        self.register_buffer("middle", torch.zeros(real + amount + count))
        self.register_buffer("unit", torch.ones(real + amount + count))
        self.register_buffer("zero", torch.zeros(latent_dim))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        latent_dim: int = 3,
        hidden: Sequence[int] = (64,),
    ) -> "TabularVAE":
        """The story for a table: `real`, `amount`, `count`, `answer`, `choice`, `(B, columns)`
        each."""
        columns = [batch[kind].shape[1] if kind in batch else 0 for kind in KINDS]
        options = int(batch["choice"].nan_to_num(0.0).max()) + 1 if "choice" in batch else 1
        story = cls(columns, options, latent_dim, hidden)
        logs = {"amount": torch.log, "count": torch.log1p}
        numbers = [
            logs.get(kind, torch.clone)(batch[kind]) for kind in story.kinds if kind in NUMBERS
        ]
        if numbers:
            each = torch.cat(numbers, -1)
            story.middle = each.nanmean(0)
            spread = (each - story.middle).square().nanmean(0).sqrt()
            story.unit = torch.where(spread > 0, spread, torch.ones_like(spread))
        return story

    def forward(self, n: int) -> None:
        real_scale, amount_spread, count_spread = self.spreads()
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))  # (n, D)
            numbers, odds, options = self.decoder(z).split([len(self.unit), *self.sizes[3:]], -1)
            typical = self.middle + self.unit * numbers  # the network speaks in standard units
            loc, log_typical, log_rate = typical.split(self.sizes[:3], -1)
            if "real" in self.kinds:
                pyro.sample("real", dist.Normal(loc, real_scale).to_event(1))
            if "amount" in self.kinds:
                pyro.sample("amount", dist.LogNormal(log_typical, amount_spread).to_event(1))
            if "count" in self.kinds:
                rate, shape = log_rate.clamp_max(MAX_LOG_RATE).exp(), 1 / count_spread
                pyro.sample("count", dist.GammaPoisson(shape, shape / rate).to_event(1))
            if "answer" in self.kinds:
                pyro.sample("answer", dist.Bernoulli(logits=odds).to_event(1))
            if "choice" in self.kinds:
                options = options.unflatten(-1, self.options)  # (n, O, K)
                pyro.sample("choice", dist.Categorical(logits=options).to_event(1))

    def spreads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of real numbers in their own units, of the logs of amounts, and of counts beyond
        Poisson's."""
        units = self.unit.split(self.sizes[:3], -1)
        return units[0] * self.real_scale, units[1] * self.amount_spread, self.count_spread
