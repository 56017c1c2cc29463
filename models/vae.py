r"""The variational autoencoder for binary images, as Kingma and Welling defined it.

Story
    Each row is a black-and-white picture. A few standard normal causes decide it: a neural network,
    the decoder, turns them into the chance of ink at each pixel, and the pixels are drawn
    independently. This is `factor_analysis` with the linear map replaced by a network and the noise
    by coin flips.

Program
    z ~ Normal(0, I_D)
    x ~ Bernoulli(logits = decoder(z))

Graph
    +-- data (n) --------+
    |   (z) ---> [x]     |
    +--------------------+
    decoder ------> [x]

Sites
    | name | role     | shape | support | unit     |
    |------|----------|-------|---------|----------|
    | z    | latent   | (D,)  | real    | standard |
    | x    | observed | (P,)  | {0, 1}  | ink      |

Source
    D. P. Kingma, M. Welling (2014). Auto-encoding variational Bayes.
"""

__all__ = ["VAE"]

from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from ppvae.nets import MLP


class VAE(PyroModule):
    """Bernoulli pixels, decoded from standard normal causes.

    Arguments:
        num_pixels: Number `P` of pixels of a picture.
        latent_dim: Number `D` of causes.
        hidden: Widths of the decoder's hidden layers.
    """

    def __init__(
        self, num_pixels: int = 784, latent_dim: int = 50, hidden: Sequence[int] = (200, 200)
    ) -> None:
        super().__init__()
        self.decoder = MLP(latent_dim, num_pixels, hidden)
        self.register_buffer("zero", torch.zeros(latent_dim))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        latent_dim: int | None = None,
        hidden: Sequence[int] = (200, 200),
    ) -> "VAE":
        """The story for pictures like `batch["x"]`, `(B, P)`: 50 causes; below 200 pixels 10."""
        num_pixels = batch["x"][0].numel()
        return cls(num_pixels, latent_dim or (50 if num_pixels >= 200 else 10), hidden)

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))  # (n, D)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1))  # (n, P)
