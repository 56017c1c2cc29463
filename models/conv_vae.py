r"""A convolutional variational autoencoder: pictures with channels, whose levels are whole numbers.

Story
    Each row is a picture of `C` channels, `H` high and `W` wide, whose values are one of `L` levels
    from 0 to 1, as files store them. A few standard normal causes are decoded by convolutions to a
    location and a scale at each value; nearness to the location is logistic, and the chance of a
    level is the logistic's mass around it, all that lies beyond for the first and last. This is
    `gaussian_vae` with convolutions, and with probabilities in place of densities:
    the scale needs no floor to keep the likelihood finite, and the evidence is a true code length.
    Divided by `C H W log 2` it is in bits per dimension.

Program
    z ~ Normal(0, I_D)
    x ~ DiscretisedLogistic(loc(z), scale(z), L levels)

Graph
    +-- data (n) --------+
    |   (z) ---> [x]     |
    +--------------------+
    decoder ------> [x]

Sites
    | name | role     | shape     | support  | unit              |
    |------|----------|-----------|----------|-------------------|
    | z    | latent   | (D,)      | real     | standard          |
    | x    | observed | (C, H, W) | levels   | share of full ink |

Source
    D. P. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling (2016). Improving
    variational inference with inverse autoregressive flow (the discretised logistic).
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
from pyro.nn import PyroModule
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.nets import ConvDecoder

USUAL_LEVELS = (2, 17, 256)  # black and white, scikit-learn's digits, bytes
MIN_SCALE = 1e-3  # a quarter of a step between 256 levels: all mass on one


class Levels(constraints.Constraint):
    """`levels` equally spaced values from 0 to 1."""

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def __repr__(self) -> str:
        return f"{self.levels} levels from 0 to 1"

    def check(self, value: Tensor) -> Tensor:
        steps = value * (self.levels - 1)
        return (value >= 0) & (value <= 1) & ((steps - steps.round()).abs() < 1e-3)


class DiscretisedLogistic(TorchDistribution):
    """A logistic whose mass is gathered at `levels` equally spaced values from 0 to 1.

    Arguments:
        loc: Location, in units of the whole range.
        scale: Scale, likewise; broadcast with `loc`.
        levels: Number `L` of values.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, loc: Tensor, scale: Tensor, levels: int) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretisedLogistic":
        shape = Size(batch_shape)
        return DiscretisedLogistic(self.loc.expand(shape), self.scale.expand(shape), self.levels)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Levels:
        return Levels(self.levels)

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
        """log of the level's mass, in nats.

        With edges a above and b below, sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b
        - a)): a product, whose logarithm and gradient stay right far out in a tail. At the ends one
        factor is left.
        """
        half = 0.5 / (self.levels - 1)
        log_below_top = F.logsigmoid((value + half - self.loc) / self.scale)
        log_above_bottom = F.logsigmoid((self.loc - value + half) / self.scale)
        log_both = log_below_top + log_above_bottom + (-torch.expm1(-2 * half / self.scale)).log()
        log_mass = torch.where(value < half, log_below_top, log_both)
        return torch.where(value > 1 - half, log_above_bottom, log_mass)


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
        self.decoder = ConvDecoder(latent_dim, (2 * shape[0], *shape[1:]), channels)
        self.shape, self.levels = tuple(shape), levels
        self.register_buffer("zero", torch.zeros(latent_dim))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        levels: int | None = None,
        latent_dim: int = 20,
        channels: Sequence[int] = (64, 32),
    ) -> "ConvVAE":
        """The story for pictures like `batch["x"]`, `(B, C, H, W)`, with the fewest levels they
        need."""
        x = batch["x"]
        if x.dim() != 4:
            raise ValueError(
                f"expected pictures (B, C, H, W) at 'x', got {tuple(x.shape)}; data sets give them "
                "as NAME:images=true"
            )
        if levels is None:
            fitting = [n for n in USUAL_LEVELS if bool(Levels(n).check(x.nan_to_num(0.0)).all())]
            if not fitting:
                raise ValueError(
                    f"expected {', '.join(map(str, USUAL_LEVELS))} equally spaced levels from 0 to "
                    "1 at 'x'; rescale them, or name the number with levels"
                )
            levels = fitting[0]
        return cls(x.shape[1:], levels, latent_dim, channels)

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))  # (n, D)
            middle, spread = self.decoder(z).chunk(2, -3)  # (n, C, H, W) each
            scale = MIN_SCALE + F.softplus(spread - 2)
            pyro.sample("x", DiscretisedLogistic(middle.sigmoid(), scale, self.levels).to_event(3))

    def bits_per_dimension(self, nats: Tensor) -> Tensor:
        """A log evidence in nats per row as a code length, in bits per value."""
        return -nats / (prod(self.shape) * log(2))
