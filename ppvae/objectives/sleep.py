r"""Rows that the story generates with their latents: what the sleep phase trains on."""

__all__ = ["sleep_log_prob"]

from torch import Tensor

from ppvae.problem import Problem, missing_as
from ppvae.story import simulate


def sleep_log_prob(problem: Problem) -> Tensor:
    """log q(z | x) of rows and latent draws that the story itself generates, as many as the problem
    has.

    Covariates are the rows' own, and entries that the rows miss are missing in the generated ones
    too.

    Arguments:
        problem: Story, guide and rows, all latent sites local.

    Returns:
        `(B,)`, in nats; its gradient reaches the guide alone.

    Raises:
        ValueError: If the data are not named like the story's sites and covariates (an adopted
            model), or the guide's density cannot be evaluated.
    """
    program, batch, sites = problem.program, problem.batch, problem.sites
    covariates = program.inputs(batch)
    if not program.generates_rows or set(batch) - set(covariates) - set(sites.observed):
        raise ValueError(
            "expected a story that generates what it is shown, got an adopted model, which "
            "observes its data itself; write it as a story, or use another objective"
        )
    rows = simulate(problem.story, problem.num_rows, seed=None, **covariates)
    shown = {k: v if k in covariates else missing_as(rows[k], v) for k, v in batch.items()}
    latents = {name: rows[name].unsqueeze(0) for name in sites.latent}
    return problem.on(shown).log_guide(latents).squeeze(0)
