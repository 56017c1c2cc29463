r"""log q(z | x) at values that the guide did not draw itself."""

__all__ = ["log_guide_at", "log_guide_of"]

from typing import Any

import torch
from torch import Tensor, nn

from ppvae.story import (
    RowLogProb,
    SampleRows,
    Sites,
    TensorDict,
    local_params,
    num_rows_of,
    run_particles,
)
from ppvae.story.handlers import Condition


def log_guide_at(guide: nn.Module, batch: TensorDict, latents: TensorDict, sites: Sites) -> Tensor:
    """log q(z | x) at given values, over the sites that the guide draws.

    Arguments:
        guide: Any Pyro guide; one with auxiliary sites must be of `ppvae.guides`.
        batch: Rows, name -> `(B, *event)`.
        latents: Every local latent site that the guide draws, name -> `(S, B, *row)`.
        sites: The story's sites.

    Returns:
        `(S, B)`, in nats.

    Raises:
        ValueError: If the guide's density cannot be evaluated.
    """
    if not (hasattr(guide, "posterior") and hasattr(guide, "flat")):
        scored = _score_guide(guide, batch, latents, sites)
        unknown = sorted(set(scored.by_site) - set(latents))
        if unknown:
            raise ValueError(
                "expected a guide whose density can be evaluated at given values, got one with "
                f"auxiliary sites {unknown}; give the guide a method posterior(batch) and an "
                "attribute flat, as those of ppvae.guides have"
            )
        return scored.local
    ours: Any = guide
    parts = []  # continuous sites as one vector, whose density is known; discrete sites one by one
    if ours.flat.dim:
        u = ours.flat.flatten(latents)
        parts.append(ours.posterior(batch).log_prob(u) - ours.flat.unflatten(u)[1])
    discrete = {} if ours.discrete is None else {n: latents[n] for n in ours.discrete.sites}
    if discrete:
        scored = _score_guide(guide, batch, discrete, sites)
        parts += [scored.by_site[name] for name in discrete]
    return torch.stack(parts).sum(0)


def log_guide_of(guide: nn.Module, batch: TensorDict, drawn: SampleRows, sites: Sites) -> Tensor:
    """log q(z | x) of a guide's own draws, to be compared with `log_guide_at`, `(S, B)`, in nats.

    It is what they were scored by when drawn, except where that is no density of z: a guide with
    variables of its own beside z.

    Arguments:
        guide: Any Pyro guide.
        batch: Rows, name -> `(B, *event)`.
        drawn: What it drew.
        sites: The story's sites.
    """
    posterior: Any = getattr(guide, "posterior", None)
    if posterior is not None and not getattr(posterior(batch), "has_density", True):
        return log_guide_at(guide, batch, drawn.values, sites)
    return drawn.local


def _score_guide(
    guide: nn.Module, batch: TensorDict, latents: TensorDict, sites: Sites
) -> RowLogProb:
    """Run a guide as a program with some of its sites held at values."""

    def run_once(values: TensorDict, num_particles: int, dim: int) -> RowLogProb:
        scored = RowLogProb(sites.particle_dim, num_particles, num_rows_of(batch))
        with local_params(guide), scored, Condition({}, values, dim):
            guide(batch)
        return scored

    return run_particles(run_once, latents, sites.particle_dim, hasattr(guide, "posterior"))
