r"""A variational autoencoder for real numbers: the decoder gives each mean and width.

Story
    Each row is a picture in shades of grey, or any vector of real numbers. A few standard normal
    causes decide for each number a mean and a scale, by one network with two heads, and the numbers
    are drawn independently. This is `vae` with the coin flips replaced by Normals. The scale is
    bounded below: without a bound the likelihood of a pixel that never changes grows without end.

Program
    z ~ Normal(0, I_D)
    x ~ Normal(loc(z), scale(z)^2),  scale(z) > min_scale

Graph
    +-- data (n) --------+
    |   (z) ---> [x]     |
    +--------------------+
    decoder ------> [x]

Sites
    | name | role     | shape | support | unit          |
    |------|----------|-------|---------|---------------|
    | z    | latent   | (D,)  | real    | standard      |
    | x    | observed | (P,)  | real    | the data's own |

Source
    D. P. Kingma, M. Welling (2014). Auto-encoding variational Bayes (their Gaussian decoder, on
    Frey Face). P.-A. Mattei, J. Frellsen (2018). Leveraging the exact likelihood of deep latent
    variable models (on the bound).
"""

__all__ = ["GaussianVAE"]

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor

from ppvae.nets import MLP


class GaussianVAE(PyroModule):
    """Normal numbers whose means and scales are decoded from standard normal causes.

    Arguments:
        data_dim: Length `P` of a row.
        latent_dim: Number `D` of causes.
        hidden: Widths of the decoder's hidden layers.
        min_scale: Lower bound of the scale, in the data's unit; half a step of grey is a floor that
            makes sense.
    """

    example: ClassVar[str] = "digits:binarize=none"

    def __init__(
        self,
        data_dim: int = 560,
        latent_dim: int = 10,
        hidden: Sequence[int] = (200, 200),
        min_scale: float = 0.03,
    ) -> None:
        super().__init__()
        self.decoder = MLP(latent_dim, 2 * data_dim, hidden)
        self.min_scale = min_scale
        self.register_buffer("zero", torch.zeros(latent_dim))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        latent_dim: int = 10,
        hidden: Sequence[int] = (200, 200),
        min_scale: float = 0.03,
    ) -> "GaussianVAE":
        """The story for rows like `batch["x"]`, with shape `(B, P)`."""
        return cls(batch["x"][0].numel(), latent_dim, hidden, min_scale)

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))  # (n, D)
            loc, raw = self.decoder(z).chunk(2, -1)  # (n, P) each
            scale = self.min_scale + F.softplus(raw)
            pyro.sample("x", dist.Normal(loc, scale).to_event(1))
