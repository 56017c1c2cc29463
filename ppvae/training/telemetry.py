r"""What each latent site costs and how much of it is in use, epoch by epoch."""

__all__ = ["site_telemetry"]

from typing import Any

import torch
from torch import nn

from ppvae.estimate import Estimate
from ppvae.predict.embed import ACTIVE_VARIANCE, variance_over_rows
from ppvae.problem import Problem
from ppvae.problem.kl_terms import kl_terms
from ppvae.story import Sites, TensorDict, seeded_eval

NUM_PARTICLES = 10


def site_telemetry(
    story: nn.Module, guide: nn.Module, rows: TensorDict, sites: Sites
) -> dict[str, Any]:
    """KL and active units of each latent site, from a few particles; see `kl_by_site` and `active_units` for errors.

    Arguments:
        story: The story.
        guide: Its guide.
        rows: A few hundred rows, name -> `(B, *event)`.
        sites: The story's sites.

    Returns:
        `kl`, site -> nats per row, and `active_units`, site -> how many of its numbers say something about the row; both
        None where there are no latent sites, where rows touch through global ones, or there is but one row.
    """
    if not sites.latent or sites.global_latent or len(next(iter(rows.values()))) < 2:
        return {"kl": None, "active_units": None}
    with torch.no_grad(), seeded_eval(0, story, guide):
        problem = Problem(story, guide, sites, rows, len(next(iter(rows.values()))))
        latents, terms = kl_terms(problem, NUM_PARTICLES)
    kl = {
        name: float(t.flatten(2).sum(-1).mean() if t.dim() > 2 else t.mean())
        for name, t in terms.items()
    }
    means = {name: Estimate.of_draws(draws) for name, draws in latents.items()}
    moved = {name: variance_over_rows(mean).value for name, mean in means.items()}
    return {
        "kl": kl,
        "active_units": {name: int((v > ACTIVE_VARIANCE).sum()) for name, v in moved.items()},
    }
