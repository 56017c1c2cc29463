r"""ELBO surgery: what the code of a row costs, split into what it tells and what it wastes.

:math:`E_x\, KL(q(z|x) \,\|\, p(z)) = I_q(x; z) + KL(q(z) \,\|\, p(z))` with the aggregate posterior
:math:`q(z) = \frac{1}{N} \sum_n q(z|x_n)`. The first term is the information of the code about the row, at most
:math:`\log N`; the second is how far codes of data lie from codes that the story would draw.
"""

__all__ = ["ELBODecomposition", "mutual_information"]

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ppvae.data import to_batch
from ppvae.data.chunks import CHUNK_NUMBERS, numbers_per_row
from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.estimate import Estimate
from ppvae.problem.particles import (
    chunks,
    log_guide_at,
    log_prob_by_site,
    refuse_all_summed,
    refuse_local,
)
from ppvae.problem.weights import check_pair, draw, refuse_global
from ppvae.story import (
    LogJoint,
    Sites,
    TensorDict,
    enumerate_support,
    num_rows_of,
    partially_observed,
    seeded_eval,
    split_batch,
)
from ppvae.story.conditioning import ROWS_TO_TRACE
from ppvae.story.validation import parent_sites

LEAST_INFORMATION = 0.1
# Numbers that scoring every draw under every row may write: some seconds on one core, whatever the guide.
MOST_NUMBERS = 2**31
LEAST_ROWS = 20
PROBE = 16  # rows of the run that counts them


@dataclass(frozen=True)
class ELBODecomposition:
    """The two parts of the mean KL, in nats per row.

    Arguments:
        mutual_information: I_q(x; z), `()`, between 0 and `log_rows`.
        aggregate_kl: KL(q(z) || p(z)), `()`.
        kl: Their sum, the mean KL(q(z | x) || p(z)), `()`.
        log_rows: log N, the most that a code can tell about N rows; near it, I says little about more rows.
        num_given: Rows that were given; N is smaller where a guide is slow to score.
    """

    mutual_information: Estimate
    aggregate_kl: Estimate
    kl: Estimate
    log_rows: float
    num_given: int

    @property
    def num_rows(self) -> int:
        """N, the rows that were looked at."""
        return round(math.exp(self.log_rows))

    @property
    def verdict(self) -> Verdict:
        """`fail` if the code tells less than 0.1 nats about the row: posterior collapse."""
        return "fail" if float(self.mutual_information.value) < LEAST_INFORMATION else "pass"

    @property
    def findings(self) -> tuple[Finding, Finding]:
        """Information about the row, and the distance of the aggregate posterior from the prior."""
        advice = "the code says nothing about the row (posterior collapse): use kl_warmup in fit, or a weaker decoder"
        information, waste = self.mutual_information, self.aggregate_kl
        some = (
            "" if self.num_rows == self.num_given else f", {self.num_rows} of {self.num_given} rows"
        )
        return (
            Finding(
                "I(x; z), nats", float(information.value), float(information.std_error),
                f">= {LEAST_INFORMATION}, at most log N = {self.log_rows:.2f}{some}", self.verdict,
                advice if self.verdict == "fail" else "",
            ),
            Finding(
                "KL(aggregate posterior || prior), nats", float(waste.value), float(waste.std_error),
                "none; 0 is best", "none", "",
            ),
        )  # fmt: skip


def mutual_information(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    num_particles: int = 10,
    max_rows: int | None = None,
    seed: int = 0,
) -> ELBODecomposition:
    """Mutual information of row and code, and the aggregate posterior's KL to the prior.

    Every draw is scored under the guide at every row: time grows as rows squared, memory does not. An autoregressive flow
    is slow to score where it did not draw, a pass of its networks for each latent number; rows are then taken at random,
    as many as some seconds allow, and the findings say how many. Finite sites that the guide leaves out are summed out
    of the prior: the code is what the guide draws.

    Arguments:
        story: The story; its prior may not depend on covariates.
        guide: An amortized guide whose density can be evaluated.
        data: Rows, anything that `ppvae.data.as_rows` takes; a few hundred to a few thousand.
        num_particles: Draws of each row, S.
        max_rows: Rows to look at; None: all, or as many as a bound on the work allows (the same on every machine), at
            least 20.
        seed: Seed of the draws, and of the rows that are taken.

    Returns:
        The parts in nats per row, for exactly these rows.

    Raises:
        ValueError: If the story has global latent sites or covariates, or the guide draws no site or its density cannot be
            evaluated, or there are fewer than two rows to look at.

    Source:
        M. Hoffman, M. Johnson (2016). ELBO surgery: yet another way to carve up the variational evidence lower bound.
    """
    refuse_local(guide, "mutual information")
    batch = to_batch(story, data)
    sites = check_pair(story, guide, batch)
    refuse_global(sites, "mutual information")
    _refuse_covariates(story, batch)
    if min(num_rows_of(batch), 2 if max_rows is None else max_rows) < 2:
        raise ValueError(
            f"expected at least two rows, got {num_rows_of(batch)} and max_rows={max_rows}"
        )
    information, cost, num_given = [], [], num_rows_of(batch)
    with torch.no_grad(), seeded_eval(seed, story, guide):
        allowed = _affordable(guide, batch, sites, num_particles) if max_rows is None else max_rows
        if allowed < num_given:
            picks = torch.randperm(num_given)[:allowed]
            batch = {k: v[picks.to(v.device)] for k, v in batch.items()}
        for _, rows in chunks(batch, guide, num_particles):
            drawn = draw(guide, rows, num_particles, sites)
            refuse_all_summed(drawn.values, sites, "mutual information")
            log_prior = _log_prior(story, rows, drawn.values, sites)
            log_q = log_guide_at(guide, rows, drawn.values, sites)  # (S, B)
            aggregate = _log_aggregate(guide, batch, drawn.values, sites)
            information.append(log_q - aggregate)
            cost.append(log_q - log_prior)
    told, paid = torch.cat(information, 1), torch.cat(cost, 1)
    log_rows = math.log(num_rows_of(batch))
    return ELBODecomposition(
        _over_rows(told), _over_rows(paid - told), _over_rows(paid), log_rows, num_given
    )


class _Numbers(TorchDispatchMode):
    """Counts the numbers that torch writes."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += sum(v.numel() for v in tree_leaves(result) if isinstance(v, Tensor))
        return result


def _affordable(guide: nn.Module, batch: TensorDict, sites: Sites, num_particles: int) -> int:
    """Rows whose draws can be scored under each of them within the bound."""
    few = {k: v[:PROBE] for k, v in batch.items()}
    counts = []
    for size in (1, 3):
        drawn = draw(guide, few, size, sites).values
        if not drawn:
            break  # refused later, with its reason
        with _Numbers() as written:
            log_guide_at(guide, few, drawn, sites)
        counts.append(written.count)
    a_pair = max(1.0, (counts[-1] - counts[0]) / (2 * num_rows_of(few))) if counts else 1.0
    return max(LEAST_ROWS, int((MOST_NUMBERS / (a_pair * num_particles)) ** 0.5))


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


def _log_prior(story: nn.Module, rows: TensorDict, latents: TensorDict, sites: Sites) -> Tensor:
    """log p(z) of the sites that the guide draws, summed over the finite ones that it leaves out, `(S, B)`."""
    partly = partially_observed(story, rows, sites)
    if not partly and set(latents) == set(sites.latent):
        scores = log_prob_by_site(story, rows, latents, sites)
        return torch.stack([scores[name] for name in sites.latent]).sum(0)
    # With every observation missing, log p(x, z) is log p(z).
    stuck = [n for n in _observed_causes(story, sites) if enumerate_support(sites[n]) is None]
    if stuck:
        raise ValueError(
            f"expected observed sites that nothing depends on, or that are finite, got {stuck}: log p(z) cannot be summed "
            "over them"
        )
    dtype = torch.get_default_dtype()
    like = {k: v if v.is_floating_point() else v.to(dtype) for k, v in rows.items()}
    return LogJoint(story, {k: torch.full_like(v, torch.nan) for k, v in like.items()}, sites)(
        latents
    )


def _observed_causes(story: nn.Module, sites: Sites) -> list[str]:
    parents = parent_sites(story, {}, ROWS_TO_TRACE)
    return sorted(parents & set(sites.observed))


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
