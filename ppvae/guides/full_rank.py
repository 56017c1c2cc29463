r"""Full rank: one Gaussian with every correlation between latent numbers."""

__all__ = ["FullGaussian", "FullRank"]

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive
from ppvae.guides.pushforward import log_standard_normal
from ppvae.story import TensorDict


class FullRank(Guide):
    r"""Gaussian with a Cholesky factor per row, :math:`q(u|x) = N(\mu(x), L(x) L(x)^T)`.

    Assumes that the posterior is Gaussian on unconstrained space; holds :math:`d (d + 3) / 2`
    numbers a row. Arguments as for `Guide`.

    Source:
        M. Titsias, M. Lázaro-Gredilla (2014). Doubly stochastic variational Bayes for non-conjugate
        inference.
    """

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"loc": (dim,), "raw_diagonal": (dim,)}
        if dim > 1:
            shapes["lower"] = (dim * (dim - 1) // 2,)
        return shapes

    def family(self, parameters: TensorDict, transport: Any) -> dist.Distribution:
        loc = parameters["loc"]
        scale_tril = torch.diag_embed(positive(parameters["raw_diagonal"]))  # (B, d, d)
        if "lower" in parameters:
            rows, columns = torch.tril_indices(loc.shape[-1], loc.shape[-1], -1, device=loc.device)
            scale_tril[..., rows, columns] = parameters["lower"]
        return FullGaussian(loc, scale_tril=scale_tril)


class FullGaussian(dist.MultivariateNormal):
    """A Gaussian that scores its own draws by the noise they came from.

    That is exact however ill-conditioned `L` is, as it becomes on rows far from the training set;
    solving for the noise is not, and would make an ELBO out of rounding errors.
    """

    _last: tuple[Tensor, Tensor] | None = None

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        eps = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        tril = self._unbroadcasted_scale_tril
        value = self.loc + (tril @ eps.unsqueeze(-1)).squeeze(-1)
        log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self._last = value, log_standard_normal(eps) - log_det
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            return self._last[1]
        return super().log_prob(value)
