r"""Rows that the story dreams up, with their latent draws: what a guide learns from while it sleeps."""

__all__ = ["sleep_log_prob"]

from torch import Tensor, nn

from ppvae.problem.particles import inputs_of, log_guide_at, missing_as
from ppvae.story import Sites, TensorDict, num_rows_of, simulate


def sleep_log_prob(story: nn.Module, guide: nn.Module, batch: TensorDict, sites: Sites) -> Tensor:
    """log q(z | x) of rows and latent draws that the story itself generates, as many as the batch has.

    Covariates are the batch's own, and entries that it misses are missing in the dreams too.

    Arguments:
        story: The story.
        guide: The guide.
        batch: Rows, name -> `(B, *event)`.
        sites: The story's sites, all latent ones local.

    Returns:
        `(B,)`, in nats; its gradient reaches the guide alone.

    Raises:
        ValueError: If the data are not named like the story's sites and covariates (an adopted model), or the guide's
            density cannot be evaluated.
    """
    covariates = inputs_of(story, batch)
    if hasattr(story, "run_conditioned") or set(batch) - set(covariates) - set(sites.observed):
        raise ValueError(
            "expected a story that generates what it is shown, got an adopted model, which observes its data itself; "
            "write it as a story, or use another objective"
        )
    rows = simulate(story, num_rows_of(batch), seed=None, **covariates)
    dreamt = {k: v if k in covariates else missing_as(rows[k], v) for k, v in batch.items()}
    latents = {name: rows[name].unsqueeze(0) for name in sites.latent}
    return log_guide_at(guide, dreamt, latents, sites).squeeze(0)
