r"""Decomposition of the ELBO's KL term: information about the row, and the aggregate posterior's
distance from the prior.

:math:`E_x\, KL(q(z|x) \,\|\, p(z)) = I_q(x; z) + KL(q(z) \,\|\, p(z))` with the aggregate posterior
:math:`q(z) = \frac{1}{N} \sum_n q(z|x_n)`. The first term is the information of the code about the
row, at most
:math:`\log N`; the second is how far codes of data lie from codes that the story would draw.
"""

__all__ = ["ELBODecomposition", "mutual_information"]

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data.chunks import CHUNK_NUMBERS, numbers_per_row
from ppvae.diagnostics.active_units import COLLAPSE_REMEDY
from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.requirements import Pair, as_problem, check_amortized, check_draws_sites
from ppvae.estimate import Estimate
from ppvae.problem import Problem
from ppvae.result import Result
from ppvae.story import TensorDict, enumerate_support
from ppvae.story.validation import parent_sites

MIN_INFORMATION = 0.1  # nats
PURPOSE = "mutual information"


@dataclass(frozen=True)
class ELBODecomposition(Result):
    """The two parts of the mean KL, in nats per row.

    Arguments:
        mutual_information: I_q(x; z), `()`, between 0 and `log_rows`.
        aggregate_kl: KL(q(z) || p(z)), `()`.
        kl: Their sum, the mean KL(q(z | x) || p(z)), `()`.
        log_rows: log N, the most that a code can tell about N rows; near it, I says little about
            more rows.
        num_given: Rows that were given; N is smaller where there are more than `max_rows`.
    """

    mutual_information: Estimate
    aggregate_kl: Estimate
    kl: Estimate
    log_rows: float
    num_given: int

    @property
    def num_rows(self) -> int:
        """N, the rows that were used."""
        return round(math.exp(self.log_rows))

    @property
    def verdict(self) -> Verdict:
        """`fail` if the code tells less than 0.1 nats about the row: posterior collapse."""
        return "fail" if float(self.mutual_information.value) < MIN_INFORMATION else "pass"

    @property
    def findings(self) -> tuple[Finding, Finding]:
        """Information about the row, and the distance of the aggregate posterior from the prior."""
        advice = f"the code says nothing about the row (posterior collapse): {COLLAPSE_REMEDY}"
        bar = f">= {MIN_INFORMATION}, at most log N = {self.log_rows:.2f}"
        if self.num_rows < self.num_given:
            bar += f", {self.num_rows} of {self.num_given} rows"
        name = "KL(aggregate posterior || prior), nats"
        return (
            Finding.of("I(x; z), nats", self.mutual_information, bar, self.verdict, advice),
            Finding.of(name, self.aggregate_kl, "none; 0 is best"),
        )


def mutual_information(
    story: Pair,
    guide: nn.Module | None = None,
    data: Any = None,
    *,
    num_particles: int = 10,
    max_rows: int = 500,
    seed: int = 0,
) -> ELBODecomposition:
    """Mutual information of row and code, and the aggregate posterior's KL to the prior.

    Every draw is scored under the guide at every row: time grows as rows squared, memory does not.
    Finite sites that the guide leaves out are summed out of the prior: the code is what the guide
    draws.

    Arguments:
        story: The story; its prior may not depend on covariates. Or a `Problem` of story, guide and
            rows, with nothing for the two next.
        guide: An amortized guide whose density can be evaluated.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_particles: Draws of each row, S.
        max_rows: Of more rows, so many are taken at random. An autoregressive flow is slow to score
            where it did not draw, a pass of its networks for each latent number: give it fewer.
        seed: Seed of the draws, and of the rows that are taken.

    Returns:
        The parts in nats per row, for exactly these rows.

    Raises:
        ValueError: If the story has global latent sites or covariates, or the guide draws no site
            or its density cannot be evaluated, or there are fewer than two rows to use.

    Source:
        M. Hoffman, M. Johnson (2016). ELBO surgery: yet another way to carve up the variational
        evidence lower bound.
    """
    problem = as_problem(story, guide, data, PURPOSE)
    check_amortized(problem.guide, PURPOSE)
    covariates = sorted(problem.covariates)
    if covariates:
        raise ValueError(
            f"expected a story without covariates for the aggregate posterior, got {covariates}; "
            "kl_by_site serves it"
        )
    num_given = problem.num_rows
    if min(num_given, max_rows) < 2:
        raise ValueError(f"expected at least two rows, got {num_given} and max_rows={max_rows}")
    information, kl = [], []
    with torch.no_grad(), problem.eval_mode(seed):
        if max_rows < num_given:
            problem = problem.rows(torch.randperm(num_given)[:max_rows])
        for piece in problem.pieces(num_particles=num_particles):
            drawn = piece.draw(num_particles).values
            check_draws_sites(piece, drawn, PURPOSE)
            log_guide = piece.log_guide(drawn)  # (S, B)
            information.append((log_guide - _log_aggregate(problem, drawn)).mean(0))
            kl.append((log_guide - _log_prior(piece, drawn)).mean(0))
    # The error of a mean over rows holds that of their particles.
    of_rows, cost = torch.cat(information), torch.cat(kl)
    return ELBODecomposition(
        mutual_information=Estimate.of_draws(of_rows),
        aggregate_kl=Estimate.of_draws(cost - of_rows),
        kl=Estimate.of_draws(cost),
        log_rows=math.log(problem.num_rows),
        num_given=num_given,
    )


def _log_aggregate(problem: Problem, latents: TensorDict) -> Tensor:
    """log q(z), the mean over all rows of q(z | x_n), at draws `(S, b, *row)`; `(S, b)`, in
    nats."""
    num_particles, num_own = next(iter(latents.values())).shape[:2]
    points = {name: value.flatten(0, 1) for name, value in latents.items()}  # (S * b, *row)
    # What scoring a point makes: its latent numbers, and hidden layers.
    numbers = max(16, sum(value[0].numel() for value in points.values()))
    step = max(1, min(1000, CHUNK_NUMBERS // numbers_per_row(problem.batch)))
    log_sum = torch.full((num_particles * num_own,), -torch.inf)
    log_sum = log_sum.to(next(iter(problem.batch.values())))
    for piece in problem.pieces(step):
        size = max(1, CHUNK_NUMBERS // (numbers * piece.num_rows))
        for first in range(0, len(log_sum), size):
            some = {name: value[first : first + size, None] for name, value in points.items()}
            at_rows = {
                name: value.expand(-1, piece.num_rows, *value.shape[2:])
                for name, value in some.items()
            }
            log_q = piece.log_guide(at_rows).logsumexp(1)
            log_sum[first : first + size] = torch.logaddexp(log_sum[first : first + size], log_q)
    return (log_sum - math.log(problem.num_rows)).reshape(num_particles, num_own)


def _log_prior(problem: Problem, latents: TensorDict) -> Tensor:
    """log p(z) of the sites that the guide draws, summed over the finite ones that it leaves
    out, `(S, B)`."""
    sites = problem.sites
    if not problem.enumerated:
        log_p = problem.log_joint_by_site(latents)
        return torch.stack([log_p[name] for name in sites.latent]).sum(0)
    # With every observation missing, log p(x, z) is log p(z).
    parents = parent_sites(problem.story, {}, 5) & set(sites.observed)
    infinite = [n for n in sorted(parents) if enumerate_support(sites[n]) is None]
    if infinite:
        raise ValueError(
            f"expected observed sites that nothing depends on, or that are finite, got {infinite}: "
            "log p(z) cannot be summed over them"
        )
    dtype = torch.get_default_dtype()
    rows = {k: v if v.is_floating_point() else v.to(dtype) for k, v in problem.batch.items()}
    missing = {name: torch.full_like(value, torch.nan) for name, value in rows.items()}
    return problem.on(missing).log_joint(latents)
