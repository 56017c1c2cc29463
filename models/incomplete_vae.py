r"""A variational autoencoder for rows with holes: real numbers, some missing, some far out.

Story
    Each row is a vector of real numbers, of which some may be missing. A few standard normal causes
    decide for each number a location, a scale and how heavy its tails are, and the numbers are
    drawn independently. This is `gaussian_vae` with the Normals replaced by Student's t. Given the
    causes the numbers are independent, so a missing one (NaN in the data) is simply not scored, the
    causes are inferred from those that are there, and the story fills the holes with draws from
    p(missing | causes): values with their uncertainty. That is right where the chance to be missing
    does not depend on the missing value itself (missing at random).

Program
    z ~ Normal(0, I_D)
    x ~ StudentT(df(z), loc(z), scale(z)),  scale(z) > min_scale, df(z) > 3

Graph
    +-- data (n) -------------------+
    |   (z) ---> [x] some missing   |
    +-------------------------------+
    decoder ------> [x]

Sites
    | name | role     | shape | support | unit          |
    |------|----------|-------|---------|---------------|
    | z    | latent   | (D,)  | real    | standard      |
    | x    | observed | (P,)  | real    | the data's own |

Source
    P.-A. Mattei, J. Frellsen (2019). MIWAE: deep generative modelling and imputation of incomplete
    data sets.
"""

__all__ = ["IncompleteVAE"]

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor

from ppvae.nets import MLP

MIN_DF = 3.0  # below, Student's t has no variance


class IncompleteVAE(PyroModule):
    """Heavy-tailed numbers decoded from standard normal causes, for data with missing values.

    Arguments:
        data_dim: Length `P` of a row.
        latent_dim: Number `D` of causes.
        hidden: Widths of the decoder's hidden layers.
        min_scale: Lower bound of the scale, in the data's unit.
    """

    example: ClassVar[str] = "digits:binarize=none:missing=0.5"

    def __init__(
        self,
        data_dim: int = 64,
        latent_dim: int = 10,
        hidden: Sequence[int] = (200, 200),
        min_scale: float = 0.03,
    ) -> None:
        super().__init__()
        self.decoder = MLP(latent_dim, 3 * data_dim, hidden)
        self.min_scale = min_scale
        self.register_buffer("zero", torch.zeros(latent_dim))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        latent_dim: int = 10,
        hidden: Sequence[int] = (200, 200),
        min_scale: float = 0.03,
    ) -> "IncompleteVAE":
        """The story for rows like `batch["x"]`, with shape `(B, P)`."""
        return cls(batch["x"][0].numel(), latent_dim, hidden, min_scale)

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))  # (n, D)
            pyro.sample("x", self.numbers(z).to_event(1))  # (n, P)

    def numbers(self, z: Tensor) -> dist.StudentT:
        """What the numbers are drawn from, given the causes `(*, D)`; batch shape `(*, P)`."""
        loc, raw_scale, raw_df = self.decoder(z).chunk(3, -1)
        return dist.StudentT(
            MIN_DF + F.softplus(raw_df), loc, self.min_scale + F.softplus(raw_scale)
        )
