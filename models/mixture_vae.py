r"""A variational autoencoder with clusters: a discrete cause picks the Normal of the others.

Story
    Each row belongs to one of `K` kinds. A kind has its own place and spread in the space of
    causes; the causes are drawn there, and decoded to a black-and-white picture. This is `vae` with
    the standard normal replaced by a learned mixture of Normals, whose components are named: the
    kind of a row is a site, which is summed over exactly.

Program
    kind ~ Categorical(weights)
    z ~ Normal(place_kind, diag(spread_kind^2))
    x ~ Bernoulli(logits = decoder(z))

Graph
    +-- data (n) ---------------------+
    |   (kind) ---> (z) ---> [x]      |
    +---------------------------------+
    weights ---> (kind)   place, spread ---> (z)   decoder ---> [x]

Sites
    | name | role     | shape | support     | unit     |
    |------|----------|-------|-------------|----------|
    | kind | latent   | ()    | {0,...,K-1} | category |
    | z    | latent   | (D,)  | real        | standard |
    | x    | observed | (P,)  | {0, 1}      | ink      |

Exact results
    Given the causes the kind is known in closed form, p(kind | z) proportional to weights Normal(z;
    place, spread^2).

Source
    Z. Jiang, Y. Zheng, H. Tan, B. Tang, H. Zhou (2017). Variational deep embedding.
    N. Dilokthanakul et al. (2016). Deep unsupervised clustering with Gaussian mixture variational
    autoencoders.
"""

__all__ = ["MixtureVAE"]

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from ppvae.nets import MLP


class MixtureVAE(PyroModule):
    """Bernoulli pixels, decoded from causes that come in `K` clusters.

    Arguments:
        num_pixels: Number `P` of pixels of a picture.
        num_kinds: Number `K` of clusters.
        latent_dim: Number `D` of causes.
        hidden: Widths of the decoder's hidden layers.
    """

    def __init__(
        self,
        num_pixels: int = 784,
        num_kinds: int = 10,
        latent_dim: int = 10,
        hidden: Sequence[int] = (200, 200),
    ) -> None:
        super().__init__()
        self.decoder = MLP(latent_dim, num_pixels, hidden)
        self.logits = nn.Parameter(torch.zeros(num_kinds))
        self.place = nn.Parameter(torch.randn(num_kinds, latent_dim))
        self.spread: Any = PyroParam(torch.ones(num_kinds, latent_dim), constraints.positive)

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        num_kinds: int = 10,
        latent_dim: int = 10,
        hidden: Sequence[int] = (200, 200),
    ) -> "MixtureVAE":
        """The story for pictures like `batch["x"]`, `(B, P)`."""
        return cls(batch["x"][0].numel(), num_kinds, latent_dim, hidden)

    def forward(self, n: int) -> None:
        logits, place, spread = self.logits, self.place, self.spread
        with pyro.plate("data", n):
            kind = pyro.sample("kind", dist.Categorical(logits=logits))  # (n,)
            z = pyro.sample("z", dist.Normal(place[kind], spread[kind]).to_event(1))  # (n, D)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1))  # (n, P)

    def log_kind(self, z: Tensor) -> Tensor:
        """log p(kind | z), `(*, D)` to `(*, K)`, in nats."""
        log_p = dist.Normal(self.place, self.spread).log_prob(z.unsqueeze(-2)).sum(-1)
        return (log_p + self.logits).log_softmax(-1)
