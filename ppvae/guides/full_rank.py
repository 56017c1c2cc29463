r"""Full rank: one Gaussian with every correlation between latent numbers."""

__all__ = ["FullRank"]

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch

from ppvae.guides.base import Guide
from ppvae.guides.contract import positive
from ppvae.story import TensorDict


class FullRank(Guide):
    r"""Gaussian with a Cholesky factor per row, :math:`q(u|x) = N(\mu(x), L(x) L(x)^T)`.

    Assumes that the posterior is Gaussian on unconstrained space; holds :math:`d (d + 3) / 2` numbers a row.
    Arguments as for `Guide`.

    Source:
        M. Titsias, M. Lázaro-Gredilla (2014). Doubly stochastic variational Bayes for non-conjugate inference.
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
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)
