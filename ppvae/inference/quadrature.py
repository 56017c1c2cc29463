r"""log p(x) by a grid, for stories with few latent numbers a row."""

__all__ = ["check_few_dimensions", "quadrature_evidence", "quadrature_numbers"]

import math

import torch
from torch import Tensor

from ppvae.data.chunks import particle_step
from ppvae.estimate import Estimate
from ppvae.inference.annealing_path import Target
from ppvae.inference.whitening import coordinates_of
from ppvae.problem import Problem

# Nodes along each axis, odd so that every other one is a grid too, and the half-width in guide
# scales.
NODES = {1: 801, 2: 161, 3: 61}
HALF_WIDTH = 10.0
# Times that the grid is moved and scaled to the posterior that it shows.
REFINEMENTS = 2
MAX_EDGE_SHARE = 1e-4


def quadrature_evidence(problem: Problem) -> Estimate:
    """The trapezium rule on a grid that the guide places and the posterior's own moments then
    refine.

    For smooth densities that vanish at the edge the rule converges faster than any power of the
    spacing. The standard error is the change from the grid with every other node left out.

    Arguments:
        problem: A story with at most three latent numbers a row, its rows, and a guide that tells
            where the posterior lies and how wide it is; q* serves best.

    Returns:
        `(B,)`, in nats.

    Raises:
        ValueError: If there are more than three latent numbers, or the posterior reaches the grid's
            edge.
    """
    dim = check_few_dimensions(problem)
    like = next(iter(problem.batch.values()))
    axis = torch.linspace(-HALF_WIDTH, HALF_WIDTH, NODES[dim], dtype=torch.float64).to(like)
    grid = torch.cartesian_prod(*[axis] * dim).reshape(-1, 1, dim)
    step = particle_step(problem.batch, problem.num_rows)
    with torch.no_grad(), problem.eval_mode(0):
        target = Target(problem, coordinates_of(problem))
        scale_tril = torch.eye(dim).to(like)
        eps = grid.expand(-1, problem.num_rows, -1)
        log_p = torch.cat([target.log_density(part) for part in eps.split(step)])
        for _ in range(REFINEMENTS):
            loc, scale_tril = _moments(log_p, eps)
            eps = loc + torch.einsum("bij,sj->sbi", scale_tril, grid[:, 0])
            log_p = torch.cat([target.log_density(part) for part in eps.split(step)])
        log_det = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return _integrate(log_p.reshape(*[len(axis)] * dim, -1), float(axis[1] - axis[0]), log_det)


def quadrature_numbers(problem: Problem) -> int:
    """Numbers that the grid of one row takes."""
    dim = check_few_dimensions(problem)
    return int(NODES[dim] ** dim) * (3 * dim + 2)


def check_few_dimensions(problem: Problem) -> int:
    """The latent numbers of a row.

    Raises:
        ValueError: If there are too many for a grid.
    """
    dim = problem.unconstrained.dim
    if dim not in NODES:
        raise ValueError(
            f"expected at most {max(NODES)} latent numbers a row for quadrature, got {dim}; use "
            "method 'ais'"
        )
    return dim


def _moments(log_p: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(B, d)` and Cholesky factor `(B, d, d)` of the posterior, as the grid sees it."""
    weight = log_p.softmax(0).unsqueeze(-1)  # (nodes, B, 1)
    loc = (weight * eps).sum(0)
    centred = weight.sqrt() * (eps - loc)
    covariance = torch.einsum("sbi,sbj->bij", centred, centred)
    jitter = 1e-12 + 1e-6 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    identity = torch.eye(eps.shape[-1]).to(eps)
    return loc, torch.linalg.cholesky(covariance + jitter[:, None, None] * identity)


def _integrate(log_p: Tensor, spacing: float, log_det: Tensor) -> Estimate:
    """The sum over the grid, and how much it changes without every other node."""
    fine = _integral(log_p, spacing)
    coarse = _integral(log_p[(slice(None, None, 2),) * (log_p.dim() - 1)], 2 * spacing)
    _refuse_edges(log_p, fine, spacing)
    return Estimate(fine + log_det, (fine - coarse).abs())


def _integral(log_p: Tensor, spacing: float) -> Tensor:
    axes = tuple(range(log_p.dim() - 1))
    return log_p.logsumexp(axes) + len(axes) * math.log(spacing)


def _refuse_edges(log_p: Tensor, log_total: Tensor, spacing: float) -> None:
    """A posterior that reaches the edge was cut off."""
    axes = range(log_p.dim() - 1)
    edges = [log_p.select(a, i) for a in axes for i in (0, -1)]
    log_edge = torch.cat([e.reshape(-1, log_p.shape[-1]) for e in edges]).logsumexp(0)
    share = (log_edge + len(axes) * math.log(spacing) - log_total).exp()
    bad = (share > MAX_EDGE_SHARE).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"expected the posterior to lie within {HALF_WIDTH:g} guide scales of the guide, got "
            f"one that reaches the grid's edge in rows {bad[:5]}; fit the guide, or use method "
            "'ais'"
        )
