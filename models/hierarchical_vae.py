r"""A variational autoencoder with several layers of causes, each drawn given those above it.

Story
    Each row has `L` layers of hidden causes. The topmost are standard normal; what they mean for the picture is
    written on a tape of features, each lower layer is drawn given the tape and adds to it, and the tape's last state
    decides the pixels. This is `vae` with causes of causes. The tape is a path of skip connections: it carries every
    layer to the pixels, past the layers in between, which keeps deep hierarchies from losing their upper ones.

Program
    z_l ~ Normal(loc_l(tape), scale_l(tape)^2)     for l = L, ..., 1; the first is Normal(0, I)
    tape <- tape + write_l(tape, z_l)              after each layer
    x ~ Bernoulli(logits = decoder(tape))

Graph
    +-- data (n) ----------------------------+
    |   (z_L) ---> ... ---> (z_1) ---> [x]   |
    |     \----------------------------^     |
    +----------------------------------------+

Sites
    | name | role     | shape | support | unit     |
    |------|----------|-------|---------|----------|
    | z_l  | latent   | (D,)  | real    | standard |
    | x    | observed | (P,)  | {0, 1}  | ink      |

Source
    C. K. Sønderby, T. Raiko, L. Maaløe, S. K. Sønderby, O. Winther (2016). Ladder variational autoencoders.
    L. Maaløe, M. Fraccaro, V. Liévin, O. Winther (2019). BIVA: a very deep hierarchy of latent variables (the skip
    connections).
"""

__all__ = ["HierarchicalVAE"]

from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppvae.nets import MLP

MIN_SCALE = 0.05


class HierarchicalVAE(PyroModule):
    """Bernoulli pixels, decoded from layers of Normal causes with skip connections.

    Arguments:
        num_pixels: Number `P` of pixels of a picture.
        latent_dims: Number of causes in each layer, the topmost first; their number is `L`.
        width: Length of the tape.
        hidden: Widths of the hidden layers of the decoder; the layers' own networks have one of `width`.
    """

    def __init__(
        self,
        num_pixels: int = 784,
        latent_dims: Sequence[int] = (10, 20),
        width: int = 100,
        hidden: Sequence[int] = (200,),
    ) -> None:
        super().__init__()
        above, *below = latent_dims
        self.read = nn.ModuleList(MLP(width, 2 * dim, (width,)) for dim in below)
        self.write = nn.ModuleList(MLP(width + dim, width, (width,)) for dim in latent_dims)
        self.decoder = MLP(width, num_pixels, hidden)
        self.register_buffer("zero", torch.zeros(above))
        self.register_buffer("blank", torch.zeros(width))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        latent_dims: Sequence[int] = (10, 20),
        width: int = 100,
        hidden: Sequence[int] = (200,),
    ) -> "HierarchicalVAE":
        """The story for pictures like `batch["x"]`, `(B, P)`."""
        return cls(batch["x"][0].numel(), latent_dims, width, hidden)

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            top = len(self.write)
            z = pyro.sample(f"z_{top}", dist.Normal(self.zero, 1.0).to_event(1))
            tape = self._written(self.blank, self.write[0], z)  # (n, width)
            for layer, (read, write) in enumerate(zip(self.read, self.write[1:], strict=True)):
                loc, raw = read(tape).chunk(2, -1)
                prior = dist.Normal(loc, F.softplus(raw + 0.55) + MIN_SCALE)
                z = pyro.sample(f"z_{top - 1 - layer}", prior.to_event(1))
                tape = self._written(tape, write, z)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(tape)).to_event(1))

    def _written(self, tape: Tensor, write: nn.Module, z: Tensor) -> Tensor:
        """The tape after a layer, `(*, width)`."""
        tape = tape.expand(*z.shape[:-1], -1)
        return tape + write(torch.cat([tape, z], -1))
