r"""A variational autoencoder that knows the classes of some rows and sums over those of the others.

Story
    Each row is a black-and-white picture of something of one of `K` classes. The class and a few
    standard normal causes (its style) decide the picture together. This is `vae` with a discrete
    cause beside the others. Where the data show the class it is conditioned on; where it is missing
    (NaN) it is summed over. So one story learns from both kinds of rows, and classifies by Bayes'
    rule.

Program
    y ~ Categorical(1/K, ..., 1/K)
    z ~ Normal(0, I_D)
    x ~ Bernoulli(logits = decoder(y, z))

Graph
    +-- data (n) --------+
    |   (z) ---> [x]     |
    |   [y] ------^      |
    +--------------------+
    decoder ------> [x]

Sites
    | name | role     | shape | support     | unit     |
    |------|----------|-------|-------------|----------|
    | y    | observed | ()    | {0,...,K-1} | class    |
    | z    | latent   | (D,)  | real        | standard |
    | x    | observed | (P,)  | {0, 1}      | ink      |

Exact results
    Given picture and style the class is known in closed form, p(y | x, z) proportional to p(x | y,
    z).

Source
    D. P. Kingma, D. J. Rezende, S. Mohamed, M. Welling (2014). Semi-supervised learning with deep
    generative models (their M2).
"""

__all__ = ["SemiSupervisedVAE"]

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from ppvae.nets import MLP


class SemiSupervisedVAE(PyroModule):
    """Bernoulli pixels, decoded from a class and a style.

    Arguments:
        num_pixels: Number `P` of pixels of a picture.
        num_classes: Number `K` of classes.
        latent_dim: Number `D` of the style's causes.
        hidden: Widths of the decoder's hidden layers.
    """

    example: ClassVar[str] = "digits:labels=100"

    def __init__(
        self,
        num_pixels: int = 784,
        num_classes: int = 10,
        latent_dim: int = 10,
        hidden: Sequence[int] = (200, 200),
    ) -> None:
        super().__init__()
        self.decoder = MLP(num_classes + latent_dim, num_pixels, hidden)
        self.register_buffer("classes", torch.eye(num_classes))
        self.register_buffer("zero", torch.zeros(latent_dim))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        num_classes: int = 10,
        latent_dim: int = 10,
        hidden: Sequence[int] = (200, 200),
    ) -> "SemiSupervisedVAE":
        """The story for pictures like `batch["x"]`, `(B, P)`."""
        return cls(batch["x"][0].numel(), num_classes, latent_dim, hidden)

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            even = torch.zeros_like(self.classes[0])
            y = pyro.sample("y", dist.Categorical(logits=even))  # (n,)
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))  # (n, D)
            pyro.sample("x", dist.Bernoulli(logits=self.logits(y, z)).to_event(1))  # (n, P)

    def logits(self, y: Tensor, z: Tensor) -> Tensor:
        """Log odds of ink, from classes `(*,)` and styles `(*, D)` to `(*, P)`."""
        lead = torch.broadcast_shapes(y.shape, z.shape[:-1])
        parts = self.classes[y].expand(*lead, -1), z.expand(*lead, -1)
        return self.decoder(torch.cat(parts, -1))

    def log_class(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(y | x, z), `(B, P)` and `(*, B, D)` to `(*, B, K)`, in nats."""
        y = torch.arange(len(self.classes), device=z.device)
        logits = self.logits(y.expand(*z.shape[:-1], -1), z.unsqueeze(-2))  # (*, B, K, P)
        log_p = dist.Bernoulli(logits=logits).log_prob(x.unsqueeze(-2)).sum(-1)
        return log_p.log_softmax(-1)
