r"""Probabilistic PCA: a few hidden causes, mixed linearly, seen with equal noise.

Story
    Each row has `D` hidden causes, independent and standard normal. Each of `P` sensors reports a
    fixed mixture of them, shifted by its own offset. This is `factor_analysis` with the same noise
    at every sensor: at the maximum likelihood the loadings then span the principal components.

Program
    z ~ Normal(0, I_D)
    x ~ Normal(loadings z + offset, noise_scale^2 I_P)

Graph
    +-- data (n) --------+
    |   (z) ---> [x]     |
    +--------------------+
    loadings, offset, noise_scale ---> [x]

Sites
    | name | role     | shape | support | unit          |
    |------|----------|-------|---------|---------------|
    | z    | latent   | (D,)  | real    | standard      |
    | x    | observed | (P,)  | real    | the data's own |

Exact results
    With M = W' W + s^2 I_D: posterior Normal(M^-1 W' (x - offset), s^2 M^-1), evidence x ~
    Normal(offset, W W' + s^2 I_P). At the maximum likelihood s^2 is the mean of the P - D smallest
    eigenvalues of the covariance of the data, and W = U (L - s^2 I_D)^(1/2) with its D largest
    eigenvalues L and their eigenvectors U.

Source
    M. E. Tipping, C. M. Bishop (1999). Probabilistic principal component analysis.
"""

__all__ = ["ProbabilisticPCA"]

from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints


class ProbabilisticPCA(PyroModule):
    """Linear-Gaussian story with one noise; closed-form posterior, evidence, maximum likelihood.

    Arguments:
        data_dim: Number `P` of sensors.
        latent_dim: Number `D` of hidden causes, below `P`.
        noise_scale: Standard deviation of the noise at the start, in the data's unit.
    """

    example: ClassVar[str] = "simulated"

    def __init__(self, data_dim: int = 10, latent_dim: int = 2, noise_scale: float = 0.5) -> None:
        super().__init__()
        self.loadings = nn.Parameter(torch.randn(data_dim, latent_dim))
        self.offset = nn.Parameter(torch.zeros(data_dim))
        self.noise_scale: Any = PyroParam(torch.tensor(noise_scale), constraints.positive)
        self.register_buffer("zero", torch.zeros(latent_dim))

    @classmethod
    def from_data(cls, batch: Mapping[str, Tensor], latent_dim: int = 2) -> "ProbabilisticPCA":
        """The story for rows like `batch["x"]`, with shape `(B, P)`."""
        return cls(batch["x"][0].numel(), latent_dim)

    def forward(self, n: int) -> None:
        loadings, offset, noise_scale = self.loadings, self.offset, self.noise_scale
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))  # (n, D)
            loc = z @ loadings.T + offset  # (n, P)
            pyro.sample("x", dist.Normal(loc, noise_scale).to_event(1))

    def posterior(self, batch: Mapping[str, Tensor]) -> dist.MultivariateNormal:
        """The exact posterior p(z | x), batch shape `(B,)`, event shape `(D,)`."""
        variance = self.noise_scale.square()
        identity = torch.eye(len(self.zero)).to(self.loadings)
        inner = self.loadings.T @ self.loadings + variance * identity  # M
        mixed = (batch["x"] - self.offset) @ self.loadings
        loc = torch.linalg.solve(inner, mixed.unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(loc, precision_matrix=inner / variance)

    def log_evidence(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The exact log p(x) of each row, `(B,)`, in nats."""
        diagonal = self.noise_scale.square().expand_as(self.offset)
        marginal = dist.LowRankMultivariateNormal(self.offset, self.loadings, diagonal)
        return marginal.log_prob(batch["x"])

    def set_to_maximum_likelihood(self, rows: Tensor) -> None:
        """Put the parameters where the likelihood of `rows`, `(N, P)`, is highest."""
        num_causes = len(self.zero)
        values, vectors = torch.linalg.eigh(torch.cov(rows.T, correction=0))  # ascending
        variance = values[:-num_causes].mean()
        with torch.no_grad():
            self.offset.copy_(rows.mean(0))
            self.loadings.copy_(vectors[:, -num_causes:] * (values[-num_causes:] - variance).sqrt())
        self.noise_scale = variance.sqrt().detach()
