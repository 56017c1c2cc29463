r"""Factor analysis: a few hidden causes, mixed linearly, seen with unequal noise.

Story
    Each row has `D` hidden causes, independent and standard normal. Each of `P` sensors reports a
    fixed mixture of them, shifted by its own offset and disturbed by its own noise.

Program
    z ~ Normal(0, I_D)
    x ~ Normal(loadings z + offset, diag(noise_scale^2))

Graph
    +-- data (n) --------+
    |   (z) ---> [x]     |
    +--------------------+
    loadings, offset, noise_scale ---> [x]

Sites
    | name | role     | shape | support     | unit          |
    |------|----------|-------|-------------|---------------|
    | z    | latent   | (D,)  | real        | standard      |
    | x    | observed | (P,)  | real        | the data's own |

Exact results
    Posterior precision Lambda = I + W' S^-1 W with S = diag(noise_scale^2), the same for every row;
    posterior mean Lambda^-1 W' S^-1 (x - offset). Evidence x ~ Normal(offset, W W' + S). The
    diagonal Gaussian closest to the posterior misses it by 1/2 (sum log Lambda_ii - log det Lambda)
    nats.

Source
    D. B. Rubin, D. T. Thayer (1982). EM algorithms for ML factor analysis.
"""

__all__ = ["FactorAnalysis"]

from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints


class FactorAnalysis(PyroModule):
    """Linear-Gaussian latent-variable model with closed-form posterior and evidence.

    Arguments:
        data_dim: Number `P` of sensors.
        latent_dim: Number `D` of hidden causes.
    """

    example: ClassVar[str] = "simulated"

    def __init__(self, data_dim: int = 10, latent_dim: int = 2) -> None:
        super().__init__()
        self.loadings = nn.Parameter(torch.randn(data_dim, latent_dim))
        self.offset = nn.Parameter(torch.zeros(data_dim))
        self.noise_scale: Any = PyroParam(torch.linspace(0.5, 1.5, data_dim), constraints.positive)
        self.register_buffer("zero", torch.zeros(latent_dim))

    @classmethod
    def from_data(cls, batch: Mapping[str, Tensor], latent_dim: int = 2) -> "FactorAnalysis":
        """The story for rows like `batch["x"]`, with shape `(B, P)`."""
        return cls(batch["x"][0].numel(), latent_dim)

    def forward(self, n: int) -> None:
        loadings, offset, noise_scale = self.loadings, self.offset, self.noise_scale
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))  # (n, D)
            loc = z @ loadings.T + offset  # (n, P)
            pyro.sample("x", dist.Normal(loc, noise_scale).to_event(1))

    def posterior_precision(self) -> Tensor:
        """Lambda, with shape `(D, D)`."""
        scaled = self.loadings.T / self.noise_scale.square()  # (D, P)
        return torch.eye(scaled.shape[0]).to(scaled) + scaled @ self.loadings

    def posterior(self, batch: Mapping[str, Tensor]) -> dist.MultivariateNormal:
        """The exact posterior p(z | x), batch shape `(B,)`, event shape `(D,)`."""
        precision = self.posterior_precision()
        scaled = (batch["x"] - self.offset) / self.noise_scale.square()
        loc = torch.linalg.solve(precision, (scaled @ self.loadings).unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    def log_evidence(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The exact log p(x) of each row, `(B,)`, in nats."""
        marginal = dist.LowRankMultivariateNormal(
            self.offset, self.loadings, self.noise_scale.square()
        )
        return marginal.log_prob(batch["x"])
