r"""ELBO surgery: what the code of a row costs, split into what it tells and what it wastes.

:math:`E_x\, KL(q(z|x) \,\|\, p(z)) = I_q(x; z) + KL(q(z) \,\|\, p(z))` with the aggregate posterior
:math:`q(z) = \frac{1}{N} \sum_n q(z|x_n)`. The first term is the information of the code about the row, at most
:math:`\log N`; the second is how far codes of data lie from codes that the story would draw.
"""

__all__ = ["Surgery", "mutual_information"]

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.chunks import CHUNK_NUMBERS, numbers_per_row
from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.particles import chunks, log_guide_at, log_prob_by_site, refuse_local
from ppvae.estimate import Estimate
from ppvae.story import Sites, TensorDict, measuring, num_rows_of, split_batch
from ppvae.weights import batch_for, check_pair, draw, refuse_global

LEAST_INFORMATION = 0.1


@dataclass(frozen=True)
class Surgery:
    """The two parts of the mean KL, in nats per row.

    Arguments:
        mutual_information: I_q(x; z), `()`, between 0 and `log_rows`.
        aggregate_kl: KL(q(z) || p(z)), `()`.
        kl: Their sum, the mean KL(q(z | x) || p(z)), `()`.
        log_rows: log N, the most that a code can tell about N rows; near it, I says little about more rows.
    """

    mutual_information: Estimate
    aggregate_kl: Estimate
    kl: Estimate
    log_rows: float

    @property
    def verdict(self) -> Verdict:
        """`fail` if the code tells less than 0.1 nats about the row: posterior collapse."""
        return "fail" if float(self.mutual_information.value) < LEAST_INFORMATION else "pass"

    @property
    def findings(self) -> tuple[Finding, Finding]:
        """Information about the row, and the distance of the aggregate posterior from the prior."""
        advice = "the code says nothing about the row (posterior collapse): use kl_warmup in fit, or a weaker decoder"
        information, waste = self.mutual_information, self.aggregate_kl
        return (
            Finding(
                "I(x; z), nats", float(information.value), float(information.std_error),
                f">= {LEAST_INFORMATION}, at most log N = {self.log_rows:.2f}", self.verdict,
                advice if self.verdict == "fail" else "",
            ),
            Finding(
                "KL(aggregate posterior || prior), nats", float(waste.value), float(waste.std_error),
                "none; 0 is best", "none", "",
            ),
        )  # fmt: skip


def mutual_information(
    story: nn.Module, guide: nn.Module, data: Any, *, num_particles: int = 10, seed: int = 0
) -> Surgery:
    """Mutual information of row and code, and the aggregate posterior's KL to the prior.

    Every draw is scored under the guide at every row: time grows as rows squared, memory does not.

    Arguments:
        story: The story; its prior may not depend on covariates.
        guide: An amortized guide whose density can be evaluated.
        data: Rows, anything that `ppvae.data.as_rows` takes; a few hundred to a few thousand.
        num_particles: Draws of each row, S.
        seed: Seed of the draws.

    Returns:
        The parts in nats per row, for exactly these rows.

    Raises:
        ValueError: If the story has global latent sites or covariates, or the guide's density cannot be evaluated.

    Source:
        M. Hoffman, M. Johnson (2016). ELBO surgery: yet another way to carve up the variational evidence lower bound.
    """
    refuse_local(guide, "mutual information")
    batch = batch_for(story, data)
    sites = check_pair(story, guide, batch)
    refuse_global(sites, "mutual information")
    _refuse_covariates(story, batch)
    information, cost = [], []
    with torch.no_grad(), measuring(seed, story, guide):
        for _, rows in chunks(batch, guide, num_particles):
            drawn = draw(guide, rows, num_particles, sites)
            log_prior = log_prob_by_site(story, rows, drawn.values, sites)
            log_q = log_guide_at(guide, rows, drawn.values, sites)  # (S, B)
            aggregate = _log_aggregate(guide, batch, drawn.values, sites)
            information.append(log_q - aggregate)
            cost.append(log_q - torch.stack([log_prior[k] for k in sites.latent]).sum(0))
    told, paid = torch.cat(information, 1), torch.cat(cost, 1)
    log_rows = math.log(num_rows_of(batch))
    return Surgery(_over_rows(told), _over_rows(paid - told), _over_rows(paid), log_rows)


def _log_aggregate(
    guide: nn.Module, batch: TensorDict, latents: TensorDict, sites: Sites
) -> Tensor:
    """log q(z), the mean over all rows of q(z | x_n), at draws `(S, B)`."""
    num_rows = num_rows_of(batch)
    num_particles, num_own = next(iter(latents.values())).shape[:2]
    points = {k: v.flatten(0, 1) for k, v in latents.items()}  # (S * B, *row)
    step = max(1, min(1000, CHUNK_NUMBERS // numbers_per_row(batch)))
    found = torch.full((num_particles * num_own,), -torch.inf).to(next(iter(batch.values())))
    for start in range(0, num_rows, step):
        some = {k: v[start : start + step] for k, v in batch.items()}
        count = num_rows_of(some)
        size = max(1, CHUNK_NUMBERS // (_numbers(points) * count))
        for first in range(0, len(found), size):
            part = {k: v[first : first + size, None] for k, v in points.items()}
            spread = {k: v.expand(len(v), count, *v.shape[2:]) for k, v in part.items()}
            log_q = log_guide_at(guide, some, spread, sites).logsumexp(1)
            found[first : first + size] = torch.logaddexp(found[first : first + size], log_q)
    return (found - math.log(num_rows)).reshape(num_particles, num_own)


def _numbers(latents: TensorDict) -> int:
    """Latent numbers of a row, at least 16, which stands for what scoring them makes."""
    return max(16, sum(v[0].numel() for v in latents.values()))


def _over_rows(terms: Tensor) -> Estimate:
    """Mean over particles and rows `(S, B)` -> `()`; the error is that of the rows with their noise."""
    return Estimate.of_draws(terms.mean(0))


def _refuse_covariates(story: nn.Module, batch: TensorDict) -> None:
    adopted = hasattr(story, "run_conditioned")
    names = [] if adopted else sorted(split_batch(story, batch)[1])
    if names:
        raise ValueError(
            f"expected a story without covariates for the aggregate posterior, got {names}; kl_by_site serves it"
        )
