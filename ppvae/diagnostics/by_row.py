r"""Row by row: may the guide be trusted here, how many nats does it lose, and in which direction is it off?

The importance weights of a row's particles say all of it: k-hat judges the weights themselves, log p(x) by them less
the mean log weight is what the guide loses, and moments under them are those of the posterior, as far as k-hat allows.
"""

__all__ = ["by_row"]

import math
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data import to_batch
from ppvae.data.chunks import CHUNK_NUMBERS, is_unamortized, particle_step, pieces, row_slices
from ppvae.diagnostics.rows import ByRow
from ppvae.estimate import Estimate
from ppvae.inference.khat import (
    effective_sample_size,
    khat,
    khat_threshold,
    smooth_log_weights,
)
from ppvae.problem.particles import log_prob_by_site, unknown_rows
from ppvae.problem.weights import check_pair, draw_all, refuse_global
from ppvae.story import Sites, TensorDict, num_rows_of, seeded_eval

MAX_ROWS = 1000
TINY = 1e-12


def by_row(
    story: nn.Module, guide: nn.Module, data: Any, *, num_particles: int = 1000, seed: int = 0
) -> ByRow:
    r"""Judge the guide on each row by the importance weights :math:`\log w = \log p(x, z) - \log q(z \mid x)`.

    Mean and scale of the posterior are taken under smoothed weights, of continuous sites: a category has neither. Where k-hat is above its threshold they understate how
    far the guide is off, and a mode that the guide lost is missing from all of it: `reference_posterior` looks there.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes; they are streamed in bounded memory.
        num_particles: Particles of each row, S.
        seed: Seed of the draws.

    Returns:
        The findings, row by row.

    Raises:
        ValueError: If the story has global latent sites, or there are fewer than 25 particles.

    Source:
        A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry (2024). Pareto smoothed importance sampling.
        Y. Yao, A. Vehtari, D. Simpson, A. Gelman (2018). Yes, but did it work? Evaluating variational inference.
    """
    khat_threshold(num_particles)
    batch = to_batch(story, data)
    sites = check_pair(story, guide, batch)
    refuse_global(sites, "a judgement of each row")
    step = num_rows_of(batch)
    if not is_unamortized(guide):
        kept = 3 + sum(site.row_shape.numel() for site in sites.latent.values())
        step = max(1, min(MAX_ROWS, CHUNK_NUMBERS // (kept * num_particles)))

    def judge(rows: TensorDict) -> dict[str, Any]:
        sizes = pieces(num_particles, particle_step(rows, num_rows_of(rows)))
        return _judge(*_particles(story, guide, rows, sites, sizes))

    with torch.no_grad(), seeded_eval(seed, story, guide):
        parts = [judge(rows) for rows in row_slices(batch, step)]
    return _joined(parts, num_particles)


def _particles(
    story: nn.Module, guide: nn.Module, rows: TensorDict, sites: Sites, sizes: list[int]
) -> tuple[TensorDict, Tensor, Tensor]:
    """Continuous site -> `(S, B, *row)`, log weights `(S, B)` and log p(x | z) `(S, B)`, in runs of `sizes` particles."""
    latents, log_w, log_likelihood = [], [], []
    for size in sizes:
        drawn = draw_all(story, guide, rows, size, sites)
        log_p = log_prob_by_site(story, rows, drawn.values, sites)
        latents.append({k: drawn.values[k] for k in sites.local_continuous})
        log_joint = torch.stack(list(log_p.values())).sum(0)
        log_w.append(log_joint - drawn.local.to(log_joint))
        seen = {k: log_p[k] for k in sites.observed}
        for name in set(seen) & set(drawn.values):  # labels, say, of which some are missing
            seen[name] = seen[name] * ~unknown_rows(rows[name])
        log_likelihood.append(torch.stack(list(seen.values())).sum(0))
    values = {name: torch.cat([one[name] for one in latents]) for name in latents[0]}
    return values, torch.cat(log_w), torch.cat(log_likelihood)


def _judge(latents: TensorDict, log_w: Tensor, log_likelihood: Tensor) -> dict[str, Any]:
    """All that `ByRow` holds, for a chunk of rows."""
    num_particles = len(log_w)
    raw = log_w.softmax(0)
    ess = effective_sample_size(log_w)
    evidence = log_w.logsumexp(0) - math.log(num_particles)
    weights = smooth_log_weights(log_w).softmax(0)
    moments = {name: _moments(weights, value) for name, value in latents.items()}
    return {
        "khat": khat(log_w),
        "ess": ess,
        "log_evidence": Estimate(evidence, (1 / ess - 1 / num_particles).clamp(min=0).sqrt()),
        "elbo": Estimate.of_draws(log_w),
        "gap": Estimate(evidence - log_w.mean(0), _error_of_mean(num_particles * raw - log_w)),
        "reconstruction_error": Estimate.of_draws(-log_likelihood),
        "mean_error": {name: found[0] for name, found in moments.items()},
        "log_scale_error": {name: found[1] for name, found in moments.items()},
    }


def _error_of_mean(terms: Tensor) -> Tensor:
    return Estimate.of_draws(terms).std_error


def _moments(weights: Tensor, values: Tensor) -> tuple[Estimate, Estimate]:
    """Errors of the guide's mean and log scale, `(B, *row)`; their standard errors by the delta method."""
    num_particles = len(weights)
    z = values.to(weights.dtype)
    w = weights.reshape(*weights.shape, *(1,) * (z.dim() - 2))
    ours, even = z.mean(0), 1 / num_particles
    z = z - ours  # the guide's mean is now 0
    spread = z.square().mean(0).clamp(min=TINY)
    theirs = (w * z).sum(0)
    away = z - theirs
    variance = (w * away.square()).sum(0).clamp(min=TINY)
    mean_noise = (w * away - even * z).square().sum(0)
    scale_noise = w * (away.square() / variance - 1) - even * (z.square() / spread - 1)
    return (
        Estimate(-theirs / spread.sqrt(), (mean_noise / spread).sqrt()),
        Estimate(0.5 * (spread / variance).log(), 0.5 * scale_noise.square().sum(0).sqrt()),
    )


def _joined(parts: list[dict[str, Any]], num_particles: int) -> ByRow:
    """Chunks of rows as one."""

    def join(each: list[Any]) -> Any:
        if isinstance(each[0], dict):
            return {name: join([one[name] for one in each]) for name in each[0]}
        return torch.cat(each) if isinstance(each[0], Tensor) else Estimate.cat(each)

    fields = {field: join([part[field] for part in parts]) for field in parts[0]}
    return ByRow(**fields, num_particles=num_particles)
