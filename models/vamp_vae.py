r"""A variational autoencoder with a learned prior: a mixture of encoded pseudo-pictures.

Story
    The causes of a row are not standard normal: they come from a mixture of `K` Normals in equal
    shares. Each component is what a network makes of a pseudo-picture, and the pseudo-pictures are
    learned. This is `vae` with a prior that can take the shape of the causes that the data have on
    average. In the paper that network is the encoder itself. A story says nothing of inference, so
    here the network is the story's own, of the encoder's form but with weights apart: a VampPrior
    with the tie between prior and encoder cut.

Program
    z ~ 1/K sum_k Normal(loc(pseudo_k), diag(scale(pseudo_k)^2))
    x ~ Bernoulli(logits = decoder(z))

Graph
    +-- data (n) --------+
    |   (z) ---> [x]     |
    +--------------------+
    pseudo, network ---> (z)     decoder ---> [x]

Sites
    | name | role     | shape | support | unit     |
    |------|----------|-------|---------|----------|
    | z    | latent   | (D,)  | real    | standard |
    | x    | observed | (P,)  | {0, 1}  | ink      |

Source
    J. M. Tomczak, M. Welling (2018). VAE with a VampPrior.
"""

__all__ = ["Components", "VampVAE"]

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Size, Tensor, nn
from torch.distributions import constraints

from ppvae.nets import MLP


class Components(TorchDistribution):
    """An equal mixture of diagonal Normals of `(D,)`, `loc` and `scale` `(K, D)` each."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, loc: Tensor, scale: Tensor, batch_shape: Any = ()) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(Size(batch_shape), loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Components":
        return Components(self.loc, self.scale, batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = [*sample_shape, *self.batch_shape]
        index = torch.randint(len(self.loc), shape, device=self.loc.device)
        return torch.normal(self.loc[index], self.scale[index]).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        """log p at `(*, D)`, in nats."""
        each = dist.Normal(self.loc, self.scale).log_prob(value.unsqueeze(-2)).sum(-1)
        log_p = each.logsumexp(-1) - torch.tensor(float(len(self.loc))).log()
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))


class VampVAE(PyroModule):
    """Bernoulli pixels, decoded from causes whose prior is a learned mixture.

    Arguments:
        num_pixels: Number `P` of pixels of a picture.
        latent_dim: Number `D` of causes.
        num_components: Number `K` of pseudo-pictures.
        hidden: Widths of the hidden layers of the decoder and of the prior's network.
    """

    def __init__(
        self,
        num_pixels: int = 784,
        latent_dim: int = 20,
        num_components: int = 100,
        hidden: Sequence[int] = (200, 200),
    ) -> None:
        super().__init__()
        self.decoder = MLP(latent_dim, num_pixels, hidden)
        self.pseudo = nn.Parameter(torch.randn(num_components, num_pixels))  # log odds of ink
        self.network = MLP(num_pixels, 2 * latent_dim, hidden)

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        latent_dim: int | None = None,
        num_components: int = 100,
        hidden: Sequence[int] = (200, 200),
    ) -> "VampVAE":
        """The story for pictures like `batch["x"]`, `(B, P)`; pseudo-pictures start at the first
        rows."""
        rows = batch["x"].flatten(1)
        latent_dim = latent_dim or (20 if rows.shape[1] >= 200 else 10)
        story = cls(rows.shape[1], latent_dim, num_components, hidden)
        with torch.no_grad():
            known = rows[:num_components].nan_to_num(0.5).clamp(0.1, 0.9)
            story.pseudo[: len(known)] = torch.logit(known)
        return story

    def prior(self) -> Components:
        """The distribution of the causes."""
        loc, raw = self.network(self.pseudo.sigmoid()).chunk(2, -1)
        return Components(loc, F.softplus(raw + 0.55) + 1e-2)

    def forward(self, n: int) -> None:
        prior = self.prior()
        with pyro.plate("data", n):
            z = pyro.sample("z", prior)  # (n, D)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1))  # (n, P)
