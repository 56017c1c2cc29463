r"""Pareto k-hat: may the importance weights of a row be trusted?

Large weights follow a generalised Pareto tail whose shape :math:`k` decides everything: the weights
have :math:`1/k` finite moments. :math:`\hat k` is fitted to the largest weights of each row.

What it sees, for a Gaussian guide in :math:`d` dimensions that is :math:`s` times as wide as the
posterior:

=========================  ==================
guide too narrow, s < 1    :math:`k = 1 - s^2`
guide exact, s = 1         weights constant, :math:`\hat k = -\infty`
guide too wide, s > 1      :math:`k = -2 / d`
=========================  ==================

These are limits for many particles, approached from above: in ten dimensions :math:`s = 2` gives
0.9 with 2,000 particles and 0.3 with 200,000, since hardly any of them land where the posterior is.

So k-hat sees *thin tails only*. With enough particles a guide that is too wide looks harmless
although its ELBO is low, and a mode that the guide has lost is invisible: no particle lands there,
so no weight tells of it.
"""

__all__ = ["effective_sample_size", "khat", "khat_threshold", "smooth_log_weights"]

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

MIN_PARTICLES = 25  # below this the tail holds fewer than the five points that a fit needs
MAX_ELEMENTS = 2**20  # float64 numbers in the largest temporary, 8 MiB
CONSTANT_NATS = 1e-10  # log weights closer than this are equal in any precision
CONSTANT_EPS = 256  # ... and so are those within this many rounding errors of their size
LOG_TINY = math.log(torch.finfo(torch.float64).tiny)


def khat(log_weights: Tensor) -> Tensor:
    r"""Pareto shape :math:`\hat k` of the importance weights, one per row.

    Tells whether the guide's tails reach as far as the posterior's. It sees thin tails only: theory
    says :math:`k = 1 - s^2` for a Gaussian guide :math:`s < 1` times as wide as the posterior and
    :math:`-2/d` for :math:`s > 1` in :math:`d` dimensions; a lost mode is invisible.

    Arguments:
        log_weights: :math:`\log p(x, z_s) - \log q(z_s \mid x)` in nats, particles first, with
            shape :math:`(S, *)`, float32 or float64. :math:`-\infty` is a weight of zero.

    Returns:
        :math:`\hat k`, dimensionless, with shape :math:`(*,)`. Trust the weights below
        `khat_threshold(S)`. A constant tail (an exact guide, up to rounding) gives
        :math:`-\infty`; a tail of fewer than five points (ties, or weights hundreds of nats apart)
        gives :math:`+\infty`.

    Raises:
        ValueError: With fewer than 25 particles, a weight that is NaN or :math:`+\infty`, or a row
            whose weights are all zero.

    Source:
        Vehtari, Simpson, Gelman, Yao, Gabry (2024). Pareto smoothed importance sampling.
        https://arxiv.org/abs/1507.02646
    """
    _check(log_weights, MIN_PARTICLES)
    eps = torch.finfo(log_weights.dtype).eps
    out = log_weights.new_empty(log_weights.shape[1:])
    for where, rows in _chunks(log_weights):
        out.view(-1)[where] = _fit_tail(rows, eps).khat.to(out.dtype)
    return out


def khat_threshold(num_particles: int) -> float:
    r"""Largest :math:`\hat k` at which the weights of a row may be trusted.

    Arguments:
        num_particles: Number :math:`S` of particles per row.

    Returns:
        :math:`\min(1 - 1 / \log_{10} S,\ 0.7)`, dimensionless.

    Raises:
        ValueError: With fewer than 25 particles.

    Source:
        Vehtari, Simpson, Gelman, Yao, Gabry (2024). Pareto smoothed importance sampling.
        https://arxiv.org/abs/1507.02646
    """
    if num_particles < MIN_PARTICLES:
        raise ValueError(_too_few(num_particles, MIN_PARTICLES))
    return min(1 - 1 / math.log10(num_particles), 0.7)


def smooth_log_weights(log_weights: Tensor) -> Tensor:
    r"""Replace the largest weights of each row by the quantiles of their Pareto fit.

    This trades a little bias for much less variance. Rows whose tail cannot be fitted are
    returned as they are.

    Arguments:
        log_weights: Raw log weights in nats, with shape :math:`(S, *)`.

    Returns:
        Smoothed log weights in nats, not normalised, none above the raw maximum of its row, in the
        order of the particles, with shape :math:`(S, *)`. They carry no gradient.

    Raises:
        ValueError: As `khat`.

    Source:
        Vehtari, Simpson, Gelman, Yao, Gabry (2024). Pareto smoothed importance sampling.
        https://arxiv.org/abs/1507.02646
    """
    _check(log_weights, MIN_PARTICLES)
    eps = torch.finfo(log_weights.dtype).eps
    out = log_weights.new_empty(log_weights.shape[0], log_weights[0].numel())
    for where, rows in _chunks(log_weights):
        smoothed = _smooth_rows(rows, _fit_tail(rows, eps))
        out[:, where] = smoothed.T.to(out.dtype)
    return out.view(log_weights.shape)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""Number of equally weighted particles that the weights of a row are worth.

    Arguments:
        log_weights: Log weights in nats, raw or smoothed, with shape :math:`(S, *)`.

    Returns:
        :math:`1 / \sum_s \bar w_s^2` for normalised weights :math:`\bar w_s`, in particles, from 1
        to :math:`S`, with shape :math:`(*,)`.

    Raises:
        ValueError: If a weight is NaN or :math:`+\infty`, or all weights of a row are zero.

    Source:
        Kong, Liu, Wong (1994). Sequential imputations and Bayesian missing data problems.
    """
    _check(log_weights, 1)
    out = log_weights.new_empty(log_weights.shape[1:])
    for where, rows in _chunks(log_weights):
        out.view(-1)[where] = (1 / rows.softmax(-1).square().sum(-1)).to(out.dtype)
    return out


class _Tail(NamedTuple):
    khat: Tensor  # (R,)
    sigma: Tensor  # (R,), scale of the fit in units of the largest excess
    largest: Tensor  # (R, 1), largest excess over the cutoff, as a share of the largest weight
    log_cutoff: Tensor  # (R, 1), nats below the largest weight
    log_max: Tensor  # (R, 1), nats
    size: Tensor  # (R,), points above the cutoff
    particles: Tensor  # (R, M), particles of the tail, largest weight first


def _fit_tail(rows: Tensor, eps: float) -> _Tail:
    # rows: (R, S), float64; eps: rounding error of the precision in which they were computed
    top, index = rows.topk(_tail_length(rows.shape[-1]) + 1, dim=-1)
    log_max = top[:, :1]
    constant = (log_max - top[:, -1:]).squeeze(-1) <= (
        CONSTANT_EPS * eps * log_max.squeeze(-1).abs().clamp(min=1)
    ).clamp(min=CONSTANT_NATS)

    log_ratio = top - log_max
    log_cutoff = log_ratio[:, -1:].clamp(min=LOG_TINY)
    above = log_ratio[:, :-1] > log_cutoff
    size = above.sum(-1)
    # expm1 keeps the digits of weights that lie just above the cutoff
    excess = log_cutoff.exp() * (log_ratio[:, :-1] - log_cutoff).expm1()
    excess = torch.where(above, excess, 0.0)
    largest = excess[:, :1]
    shape, sigma = _fit_pareto(excess / largest, size)

    shape = torch.where(size < 5, math.inf, shape)
    shape = torch.where(constant, -math.inf, shape)
    return _Tail(shape, sigma, largest, log_cutoff, log_max, size, index[:, :-1])


def _fit_pareto(excess: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    r"""Shape and scale of a generalised Pareto distribution, by quasi-Bayes over a grid.

    Arguments:
        excess: Largest first, the largest 1, zeros after the first `size`, with shape
            :math:`(R, M)`.
        size: Number of points in each row, with shape :math:`(R,)`.

    Returns:
        Shape :math:`k`, pulled towards 1/2 as if by ten more points, and scale, both :math:`(R,)`.

    Source:
        Zhang, Stephens (2009). A new and efficient estimation method for the generalized
        Pareto distribution.
    """
    n = size.clamp(min=1).to(excess.dtype)
    grid_size = 30 + n.sqrt().floor()[:, None]
    j = torch.arange(1, 31 + math.isqrt(excess.shape[-1]), device=excess.device)
    quarter = size.clamp(min=1) - (n / 4 + 0.5).floor().long()
    quartile = excess.gather(-1, quarter.clamp(max=excess.shape[-1] - 1)[:, None])

    b = _nonzero(1 + (1 - (grid_size / (j - 0.5)).sqrt()) / (3 * quartile))  # (R, J)
    k = (-b[:, :, None] * excess[:, None, :]).log1p().sum(-1) / n[:, None]  # (R, J)
    log_profile = n[:, None] * ((-b / k).log() - k - 1)
    posterior = log_profile.masked_fill(j > grid_size, -math.inf).softmax(-1)
    # rounding noise far from the mode would otherwise be multiplied by very large b
    posterior = torch.where(posterior >= 10 * torch.finfo(b.dtype).eps, posterior, 0.0)

    b = _nonzero((b * posterior).sum(-1) / posterior.sum(-1))
    k = (-b[:, None] * excess).log1p().sum(-1) / n
    return (n * k + 5) / (n + 10), -k / b


def _smooth_rows(rows: Tensor, tail: _Tail) -> Tensor:
    raw = rows.gather(-1, tail.particles)
    rank = torch.arange(raw.shape[-1], device=rows.device)
    k, n = tail.khat[:, None], tail.size[:, None]
    log_survival = ((rank + 0.5) / n).log()
    quantile = tail.sigma[:, None] * torch.where(
        k.abs() < torch.finfo(k.dtype).eps, -log_survival, (-k * log_survival).expm1() / k
    )
    smoothed = (tail.largest * quantile + tail.log_cutoff.exp()).log().clamp(max=0) + tail.log_max
    smoothed = torch.where((rank < n) & k.isfinite(), smoothed, raw)
    return rows.scatter(-1, tail.particles, smoothed)


def _tail_length(num_particles: int) -> int:
    return math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles)))


def _nonzero(b: Tensor) -> Tensor:
    # b = 0 is the exponential distribution, where b / k is 0 / 0 but has a limit
    return torch.where(b == 0, torch.finfo(b.dtype).eps, b)


def _chunks(log_weights: Tensor) -> Iterator[tuple[slice, Tensor]]:
    # rows are independent: a chunk of them at a time bounds the memory; yields (R, S), float64
    flat = log_weights.detach().reshape(log_weights.shape[0], log_weights[0].numel())
    tail = _tail_length(len(flat))
    per_row = len(flat) + tail * (30 + math.isqrt(tail))
    step = max(1, MAX_ELEMENTS // per_row)
    for start in range(0, flat.shape[1], step):
        where = slice(start, start + step)
        yield where, flat[:, where].T.to(torch.float64)


def _check(log_weights: Tensor, min_particles: int) -> None:
    if log_weights.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"expected log weights in float32 or float64; got {log_weights.dtype}, whose rounding "
            "hides the tail. Score story and guide in float32."
        )
    num_particles = len(log_weights) if log_weights.ndim else 0
    if num_particles < min_particles:
        raise ValueError(_too_few(num_particles, min_particles))
    _refuse(
        log_weights.isnan().any(0),
        "a log weight that is NaN; check the story and the data of these rows",
    )
    _refuse(
        (log_weights == math.inf).any(0),
        "a log weight of +inf; there the guide's density is zero or the story's is infinite",
    )
    _refuse(
        (log_weights == -math.inf).all(0),
        "no particle of positive weight; the guide has lost the support of the posterior",
    )


def _refuse(rows: Tensor, fault: str) -> None:
    if count := int(rows.sum()):
        raise ValueError(
            "expected log weights that are finite or -inf; "
            f"got {count} of {rows.numel()} rows with {fault}."
        )


def _too_few(num_particles: int, expected: int) -> str:
    return (
        f"expected at least {expected} particles, first dimension of the log weights; "
        f"got {num_particles}. Raise num_particles."
    )
