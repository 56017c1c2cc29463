r"""A conditional variational autoencoder: the class is an argument.

Story
    Each row comes with a class, which is not drawn but given. Class and a few standard normal
    causes decide a black-and-white picture. This is `semi_supervised_vae` with the class moved from
    a site to an argument, a covariate: the story can be asked for rows of any class, and says
    nothing of how often each occurs.

Program
    z ~ Normal(0, I_D)
    x ~ Bernoulli(logits = decoder(y, z))

Graph
    +-- data (n) --------+
    |   (z) ---> [x]     |
    +-------------^------+
    y (n) --------+
    decoder ------> [x]

Sites
    | name | role     | shape | support | unit     |
    |------|----------|-------|---------|----------|
    | z    | latent   | (D,)  | real    | standard |
    | x    | observed | (P,)  | {0, 1}  | ink      |

Source
    K. Sohn, H. Lee, X. Yan (2015). Learning structured output representation using deep conditional
    generative models.
"""

__all__ = ["ConditionalVAE"]

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from ppvae.nets import MLP


class ConditionalVAE(PyroModule):
    """Bernoulli pixels, decoded from a class that is given and standard normal causes.

    Arguments:
        num_pixels: Number `P` of pixels of a picture.
        num_classes: Number `K` of classes.
        latent_dim: Number `D` of causes.
        hidden: Widths of the decoder's hidden layers.
    """

    example: ClassVar[str] = "digits:labels=all"

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
    ) -> "ConditionalVAE":
        """The story for pictures like `batch["x"]`, `(B, P)`."""
        return cls(batch["x"][0].numel(), num_classes, latent_dim, hidden)

    def forward(self, n: int, y: Tensor) -> None:  # y: (n,), numbers of classes
        one_hot = self.classes[y.long()]  # (n, K)
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))  # (n, D)
            cause = torch.cat([one_hot.expand(*z.shape[:-1], -1), z], -1)  # (n, K + D)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(cause)).to_event(1))  # (n, P)
