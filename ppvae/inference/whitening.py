r"""Coordinates in which a guide looks like a standard normal, for annealing and Hamiltonian Monte
Carlo.
"""

__all__ = ["LOG_SQRT_2_PI", "Coordinates", "affine", "coordinates_of"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppvae.data.chunks import CHUNK_NUMBERS
from ppvae.problem import Problem
from ppvae.story import local_params

# Draws of a guide whose moments are not known: at least so many, and so many for each latent
# number.
MOMENT_PARTICLES = 200
MOMENT_PARTICLES_EACH = 20
JITTER = 1e-4
LOG_SQRT_2_PI = 0.9189385332046727


@dataclass(frozen=True)
class Coordinates:
    r"""A map from noise :math:`\epsilon` to :math:`u`.

    Under the map of a guide a standard normal becomes the guide: annealing from it in these
    coordinates is annealing from the guide, and the geometry is scaled by the guide's covariance (a
    preconditioner).

    Arguments:
        push: `(*, B, d)` to `u` `(*, B, d)` and log |det du/deps| `(*, B)`.
        pull: `u` to the noise, the inverse of `push`.
        dim: d.
        num_rows: B.
    """

    push: Callable[[Tensor], tuple[Tensor, Tensor]]
    pull: Callable[[Tensor], Tensor]
    dim: int
    num_rows: int


def coordinates_of(problem: Problem) -> Coordinates:
    """Coordinates that whiten a problem's guide on its rows.

    A Gaussian guide gives its own affine map, a flow its networks. Any other guide (a mixture,
    somebody else's program) is replaced by the Gaussian with its mean and covariance, or their
    diagonal where it has too many numbers: annealing may start anywhere.
    """
    guide: Any = problem.guide
    q: Any = None
    if hasattr(guide, "posterior"):
        with local_params(guide):
            q = guide.posterior(problem.batch)
    if hasattr(q, "push"):
        return Coordinates(q.push, q.pull, q.event_shape[0], q.batch_shape[0])
    if isinstance(q, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        return affine(q.loc, q.scale_tril)
    if isinstance(q, dist.Independent) and isinstance(q.base_dist, dist.Normal):
        return affine(q.base_dist.loc, torch.diag_embed(q.base_dist.scale))
    flat = problem.unconstrained.flat
    room = CHUNK_NUMBERS // (problem.num_rows * flat.dim)
    num = max(MOMENT_PARTICLES, min(MOMENT_PARTICLES_EACH * flat.dim, room))
    u = flat.flatten(problem.draw(num).values) if q is None else q.sample((num,))
    return _affine_with_moments(u)


def _affine_with_moments(u: Tensor) -> Coordinates:
    """The affine map with the mean and covariance of these draws, `(S, B, d)`."""
    dim, centred = u.shape[-1], u - u.mean(0)
    scale = u.std(0).clamp(min=1e-6)
    if len(u) < MOMENT_PARTICLES_EACH * dim:
        return affine(u.mean(0), torch.diag_embed(scale))
    whitened = centred / scale
    correlation = torch.einsum("sbi,sbj->bij", whitened, whitened) / (len(u) - 1)
    correlation = correlation + JITTER * torch.eye(dim).to(u)
    return affine(u.mean(0), scale.unsqueeze(-1) * torch.linalg.cholesky(correlation))


def affine(loc: Tensor, scale_tril: Tensor) -> Coordinates:
    """The map u = loc + L eps.

    Arguments:
        loc: `(B, d)`.
        scale_tril: L, lower triangular, `(B, d, d)`.
    """
    log_det = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def push(eps: Tensor) -> tuple[Tensor, Tensor]:
        moved = torch.einsum("bij,...bj->...bi", scale_tril, eps)
        return loc + moved, log_det.expand(eps.shape[:-1])

    def pull(u: Tensor) -> Tensor:
        shift = (u - loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(scale_tril, shift, upper=False).squeeze(-1)

    return Coordinates(push, pull, loc.shape[-1], loc.shape[0])
