r"""A variational autoencoder with several layers of causes, each drawn given those above it.

Story
    Each row has `L` layers of hidden causes. The topmost are standard normal; each lower layer is
    drawn given all layers above it, and all layers together decide the pixels. This is `vae` with
    causes of causes. That every layer reaches the pixels by itself, past the layers in between
    (skip connections), keeps deep hierarchies from losing their upper layers; and as the networks
    between layers start at zero, the story starts as a `vae` and learns how its causes hang
    together.

Program
    z_l ~ Normal(loc_l(z_L, ..., z_(l+1)), scale_l(z_L, ..., z_(l+1))^2)     for l = L, ..., 1;
        the first is Normal(0, I)
    x ~ Bernoulli(logits = decoder(z_L, ..., z_1))

Graph
    +-- data (n) ----------------------------+
    |   (z_L) ---> ... ---> (z_1) ---> [x]   |
    |     \----------------------------^     |
    +----------------------------------------+
    networks ---> (z_l)    decoder ---> [x]

Sites
    | name | role     | shape | support | unit     |
    |------|----------|-------|---------|----------|
    | z_l  | latent   | (D,)  | real    | standard |
    | x    | observed | (P,)  | {0, 1}  | ink      |

Source
    C. K. Sønderby, T. Raiko, L. Maaløe, S. K. Sønderby, O. Winther (2016). Ladder variational
    autoencoders. L. Maaløe, M. Fraccaro, V. Liévin, O. Winther (2019). BIVA: a very deep hierarchy
    of latent variables (the skip connections).
"""

__all__ = ["HierarchicalVAE"]

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppvae.nets import MLP

MIN_SCALE = 0.05
ONE = 0.461  # where softplus and the lowest scale make 1


class HierarchicalVAE(PyroModule):
    """Bernoulli pixels, decoded from layers of Normal causes with skip connections.

    Arguments:
        num_pixels: Number `P` of pixels of a picture.
        latent_dims: Number of causes in each layer, the topmost first; their number is `L`.
        width: Hidden width of the networks between layers.
        hidden: Widths of the decoder's hidden layers.
    """

    def __init__(
        self,
        num_pixels: int = 784,
        latent_dims: Sequence[int] = (10, 20),
        width: int = 100,
        hidden: Sequence[int] = (200, 200),
    ) -> None:
        super().__init__()
        above = accumulate(latent_dims)
        self.between: Any = nn.ModuleList(
            MLP(num_above, 2 * dim, (width,))
            for num_above, dim in zip(above, latent_dims[1:], strict=False)
        )
        networks: Any = self.between
        for network in networks:
            last: Any = network[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.decoder = MLP(sum(latent_dims), num_pixels, hidden)
        self.register_buffer("zero", torch.zeros(latent_dims[0]))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        latent_dims: Sequence[int] = (10, 20),
        width: int = 100,
        hidden: Sequence[int] = (200, 200),
    ) -> "HierarchicalVAE":
        """The story for pictures like `batch["x"]`, `(B, P)`."""
        return cls(batch["x"][0].numel(), latent_dims, width, hidden)

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            layer = len(self.between) + 1
            z = pyro.sample(f"z_{layer}", dist.Normal(self.zero, 1.0).to_event(1))
            for network in self.between:
                layer -= 1
                loc, raw = network(z).chunk(2, -1)
                prior = dist.Normal(loc, MIN_SCALE + F.softplus(raw + ONE))
                z = torch.cat([z, pyro.sample(f"z_{layer}", prior.to_event(1))], -1)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1))
