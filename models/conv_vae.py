r"""A convolutional variational autoencoder: pictures with channels, whose levels are whole numbers.

Story
    Each row is a picture of `C` channels, `H` high and `W` wide, whose values are one of `L` levels from 0 to 1, as
    files store them. A few standard normal causes are decoded by convolutions to a location at each value; nearness
    to it is logistic, and the chance of a level is the logistic's mass around it, all that lies beyond for the first
    and last. This is `gaussian_vae` with neighbouring pixels told together, and with chances in place of densities: the
    evidence is a true code length. Divided by `C H W log 2` it is in bits per dimension.

Program
    z ~ Normal(0, I_D)
    x ~ DiscretisedLogistic(loc = decoder(z), scale, L levels)

Graph
    +-- data (n) --------+
    |   (z) ---> [x]     |
    +--------------------+
    decoder, scale ---> [x]

Sites
    | name | role     | shape     | support  | unit              |
    |------|----------|-----------|----------|-------------------|
    | z    | latent   | (D,)      | real     | standard          |
    | x    | observed | (C, H, W) | [0, 1]   | share of full ink |

Source
    D. P. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling (2016). Improving variational
    inference with inverse autoregressive flow (the discretised logistic).
"""

__all__ = ["ConvVAE", "DiscretisedLogistic"]

from collections.abc import Mapping, Sequence
from math import log, prod
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule, PyroParam
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.nets import ConvDecoder

MIN_LOG_MASS = 1e-12  # of a level far out in a tail, where the difference of two sigmoids is lost


class DiscretisedLogistic(TorchDistribution):
    """A logistic whose mass is gathered at `levels` equally spaced values from 0 to 1.

    Arguments:
        loc: Location, in units of the whole range.
        scale: Scale, likewise; broadcast with `loc`.
        levels: Number `L` of values.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.unit_interval

    def __init__(self, loc: Tensor, scale: Tensor, levels: int) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretisedLogistic":
        shape = Size(batch_shape)
        return DiscretisedLogistic(self.loc.expand(shape), self.scale.expand(shape), self.levels)

    @property
    def mean(self) -> Tensor:
        """Where the mass lies, but for what the ends cut off."""
        return self.loc.clamp(0, 1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        u = torch.rand([*sample_shape, *self.batch_shape]).to(self.loc).clamp(1e-6, 1 - 1e-6)
        with torch.no_grad():
            drawn = (self.loc + self.scale * torch.logit(u)).clamp(0, 1)
            return (drawn * (self.levels - 1)).round() / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log of the level's mass, in nats."""
        half = 0.5 / (self.levels - 1)
        above = (value + half - self.loc) / self.scale
        below = (value - half - self.loc) / self.scale
        inside = (above.sigmoid() - below.sigmoid()).clamp_min(MIN_LOG_MASS).log()
        lowest, highest = F.logsigmoid(above), F.logsigmoid(-below)
        return torch.where(value < half, lowest, torch.where(value > 1 - half, highest, inside))


class ConvVAE(PyroModule):
    """Pictures of discrete levels, decoded from standard normal causes by convolutions.

    Arguments:
        shape: `(C, H, W)` of a picture.
        levels: Number `L` of levels; 256 in files of bytes.
        latent_dim: Number `D` of causes.
        channels: Channels before each doubling of height and width.
    """

    example: ClassVar[str] = "digits:images=true:binarize=none"

    def __init__(
        self,
        shape: Sequence[int] = (3, 32, 32),
        levels: int = 256,
        latent_dim: int = 20,
        channels: Sequence[int] = (64, 32),
    ) -> None:
        super().__init__()
        self.decoder = ConvDecoder(latent_dim, shape, channels)
        self.levels = levels
        self.scale: Any = PyroParam(torch.full((shape[0], 1, 1), 0.1), constraints.positive)
        self.register_buffer("zero", torch.zeros(latent_dim))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        levels: int | None = None,
        latent_dim: int = 20,
        channels: Sequence[int] = (64, 32),
    ) -> "ConvVAE":
        """The story for pictures like `batch["x"]`, `(B, C, H, W)`: 256 levels, or 17 where sixteenths do."""
        x = batch["x"]
        if levels is None:
            levels = 17 if bool((x * 16 == (x * 16).round()).all()) else 256
        return cls(x.shape[1:], levels, latent_dim, channels)

    def forward(self, n: int) -> None:
        scale = self.scale
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))  # (n, D)
            loc = self.decoder(z).sigmoid()  # (n, C, H, W)
            pyro.sample("x", DiscretisedLogistic(loc, scale, self.levels).to_event(3))

    def bits_per_dimension(self, nats: Tensor) -> Tensor:
        """A log evidence in nats per row as a code length, in bits per value."""
        return -nats / (prod(self.decoder.shape) * log(2))
