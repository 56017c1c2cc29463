r"""Have the chains converged, and how many independent draws are they worth: R-hat and effective
sample size.
"""

__all__ = ["bulk_ess", "rank_normalized_rhat"]

import math

import torch
from torch import Tensor

CONSTANT = 1e-15  # draws that differ by less are constant


def rank_normalized_rhat(draws: Tensor) -> Tensor:
    r"""Rank-normalised split :math:`\hat R`, the larger of the one for the bulk and the one for the
    tails.

    Arguments:
        draws: `(C, N, *)`, C chains of N draws, at least 2 of at least 4.

    Returns:
        `(*,)`, dimensionless; 1 when the chains agree, NaN where all draws are equal.

    Source:
        A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner (2021). Rank-normalization,
        folding, and
        localization: an improved R-hat for assessing convergence of MCMC.
    """
    split = _split(draws)
    flat = split.flatten(0, 1)
    middle = (flat.median(0).values - (-flat).median(0).values) / 2  # of an even number of draws
    folded = (split - middle).abs()
    return torch.fmax(_rhat(_normal_scores(split)), _rhat(_normal_scores(folded))).to(draws)


def bulk_ess(draws: Tensor) -> Tensor:
    """Effective sample size of rank-normalised split chains, for means and medians.

    Arguments:
        draws: `(C, N, *)`, C chains of N draws, N at least 4.

    Returns:
        `(*,)`, in draws over all chains; their number where all are equal.

    Source:
        As `rank_normalized_rhat`; C. J. Geyer (1992). Practical Markov chain Monte Carlo.
    """
    scores = _normal_scores(_split(draws))
    num_chains, num_draws = scores.shape[:2]
    total = num_chains * num_draws
    covariance = _autocovariance(scores).mean(0)  # (N, *)
    within = covariance[0] * num_draws / (num_draws - 1)
    pooled = covariance[0] + scores.mean(1).var(0)
    correlation = 1 - (within - covariance) / pooled
    correlation[0] = 1.0
    # Geyer's initial positive and monotone sequence of sums of pairs.
    pairs = correlation[: num_draws // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    last = max(0, (num_draws - 3) // 2)
    ends = (pairs <= 0).float()
    ends[last] = 1.0
    end = ends.argmax(0)  # the first pair that does not count
    number = torch.arange(len(pairs), device=draws.device).reshape(-1, *(1,) * (pairs.dim() - 1))
    counted = torch.where(number < end, pairs.cummin(0).values, 0.0).sum(0)
    rest = correlation.gather(0, 2 * end.unsqueeze(0)).squeeze(0)
    rest = torch.where(pairs.gather(0, end.unsqueeze(0)).squeeze(0) < 0, rest.clamp(min=0), rest)
    ess = total / (-1 + 2 * counted + rest).clamp(min=1 / math.log10(total))
    flat = scores.flatten(0, 1)
    return torch.where(flat.amax(0) - flat.amin(0) < CONSTANT, float(total), ess).to(draws)


def _split(draws: Tensor) -> Tensor:
    """Halves of chains as chains, `(2C, N/2, *)`, in double precision."""
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, -half:]]).double()


def _normal_scores(draws: Tensor) -> Tensor:
    """Normal quantiles of the ranks of draws `(C, N, *)` among those of all chains; equal draws
    share a rank.
    """
    flat = draws.flatten(0, 1).movedim(0, -1).contiguous()
    ordered = flat.sort(-1).values
    below = torch.searchsorted(ordered, flat)
    up_to = torch.searchsorted(ordered, flat, right=True)
    rank = (below + up_to + 1).double() / 2
    scores = torch.special.ndtri((rank - 3 / 8) / (flat.shape[-1] + 1 / 4))
    return scores.movedim(-1, 0).reshape(draws.shape)


def _rhat(draws: Tensor) -> Tensor:
    num_draws = draws.shape[1]
    between, within = num_draws * draws.mean(1).var(0), draws.var(1).mean(0)
    return ((between / within + num_draws - 1) / num_draws).sqrt()


def _autocovariance(draws: Tensor) -> Tensor:
    """At each lag, `(C, N, *)`, divided by N."""
    num_draws = draws.shape[1]
    spectrum = torch.fft.rfft(draws - draws.mean(1, keepdim=True), n=2 * num_draws, dim=1)
    power = spectrum.abs().square()
    return torch.fft.irfft(power, n=2 * num_draws, dim=1)[:, :num_draws] / num_draws
