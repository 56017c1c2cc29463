r"""Reference posteriors of chosen rows, by long chains that know nothing of the guide's family."""

__all__ = ["Reference", "reference_posterior"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data.chunks import CHUNK_NUMBERS, is_unamortized, numbers_per_row
from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.requirements import Pair, as_problem
from ppvae.inference.convergence import bulk_ess, rank_normalized_rhat
from ppvae.inference.hmc import evaluate_with, run_chains
from ppvae.problem import Problem
from ppvae.result import Result
from ppvae.story import Sites, TensorDict, simulate

MAX_RHAT = 1.01
MIN_ESS = 400.0  # over all chains: 100 for each of four
MIN_SAMPLES = 4  # below this the halves of a chain have no variance


@dataclass(frozen=True)
class Reference(Result):
    """Draws of p(z | x) of some rows, and whether the chains agree.

    Arguments:
        problem: The story and the rows.
        u: All continuous local latent sites on the real line, `(C, N, B, d)`, see
            `ppvae.story.Flat`.
        rhat: Rank-normalised split R-hat of each number, `(B, d)`; 1 when chains agree.
        ess: Effective sample size of each number over all chains, `(B, d)`, in draws.
        acceptance: Mean acceptance probability, `(B,)`.
        divergences: Divergent trajectories, `(B,)`.
    """

    problem: Problem
    u: Tensor
    rhat: Tensor
    ess: Tensor
    acceptance: Tensor
    divergences: Tensor

    @property
    def batch(self) -> TensorDict:
        """The rows, name -> `(B, *event)`."""
        return self.problem.batch

    @property
    def sites(self) -> Sites:
        """The story's sites."""
        return self.problem.sites

    @property
    def draws(self) -> TensorDict:
        """Continuous latent site -> `(C * N, B, *row)`."""
        return self.problem.unconstrained.unflatten(self.u.flatten(0, 1))[0]

    @property
    def converged(self) -> Tensor:
        """Rows whose chains agree, are long enough and never diverged, `(B,)`."""
        agree = (self.rhat.amax(-1) < MAX_RHAT) & (self.ess.amin(-1) >= MIN_ESS)
        return agree & (self.divergences == 0)

    @property
    def verdict(self) -> Verdict:
        """`pass` if all rows converged, `fail` if none did."""
        if bool(self.converged.all()):
            return "pass"
        return "warn" if bool(self.converged.any()) else "fail"

    @property
    def findings(self) -> tuple[Finding]:
        """Largest R-hat over rows and numbers."""
        num_failed, num_rows = int((~self.converged).sum()), len(self.converged)
        advice = f"{num_failed} of {num_rows} rows: run longer (num_warmup, num_samples)"
        if num_divergences := int(self.divergences.sum()):
            advice += f"; {num_divergences} divergences: the posterior is narrow somewhere"
        bar = f"< {MAX_RHAT}, ESS >= {MIN_ESS:.0f} (least {float(self.ess.min()):.0f})"
        name = "reference chains, largest R-hat"
        return (Finding.of(name, float(self.rhat.max()), bar, self.verdict, advice),)


def reference_posterior(
    story: Pair,
    data: Any = None,
    *,
    rows: Sequence[int] | None = None,
    guide: nn.Module | None = None,
    num_chains: int = 8,
    num_warmup: int = 300,
    num_samples: int = 500,
    seed: int = 0,
) -> Reference:
    """Sample the posterior of chosen rows with HMC, all rows and chains in one batch.

    Finite discrete sites are summed over exactly: the chains move in the continuous ones.

    Chains start at draws of the prior, and every second one at a draw of the guide if one is given:
    a mode that the guide lost then has a chance to be found, and chains that disagree show in
    R-hat.

    Arguments:
        story: The story; its latent sites are inside the plate `data`, some of them continuous. Or
            a `Problem` of story, guide (or None) and rows, with nothing for the others.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        rows: Numbers of the rows to sample; None: the first 20.
        guide: Where half of the chains start.
        num_chains: C, for each row.
        num_warmup: Transitions of warm-up.
        num_samples: N, transitions of each chain that are kept.
        seed: Seed of everything.

    Returns:
        The draws, with R-hat, effective sample size and divergences.

    Raises:
        ValueError: If a row is not there, a latent site is global, or discrete and not finite, none
            is continuous, or there are too few chains or samples.

    Source:
        R. M. Neal (2011). MCMC using Hamiltonian dynamics.
        A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner (2021). Rank-normalization,
        folding, and localization: an improved R-hat for assessing convergence of MCMC.
    """
    if num_chains < 2 or num_samples < MIN_SAMPLES or num_warmup < 0:
        raise ValueError(
            f"expected at least 2 chains of {MIN_SAMPLES} samples, got {num_chains} of "
            f"{num_samples} after {num_warmup} of warm-up"
        )
    purpose = "a reference posterior per row"
    problem = as_problem(story, None, data, purpose)
    problem = problem.rows(_row_numbers(problem, rows))
    if guide is not None:
        problem = Problem.of(problem.story, guide, problem.batch)
    elif is_unamortized(problem.guide):
        problem = problem.with_guide(None)  # it cannot be called on some of its rows
    if not problem.sites.local_continuous:
        raise ValueError(
            "expected a continuous latent site to sample, got only the discrete sites "
            f"{sorted(problem.sites.latent)}; where they are finite and few, the guide "
            "`enumerated` is their exact posterior"
        )
    step = max(1, CHUNK_NUMBERS // (numbers_per_row(problem.batch) * num_chains))
    with torch.no_grad(), problem.eval_mode(seed):
        parts = [
            run_chains(
                evaluate_with(piece.unconstrained.value_and_grad),
                _start(piece, num_chains), num_warmup, num_samples,
            )
            for piece in problem.pieces(step)
        ]  # fmt: skip
    u = torch.cat([p.positions for p in parts], 2)
    return Reference(
        problem=problem,
        u=u,
        rhat=rank_normalized_rhat(u),
        ess=bulk_ess(u),
        acceptance=torch.cat([p.acceptance for p in parts]),
        divergences=torch.cat([p.divergences for p in parts]),
    )


def _row_numbers(problem: Problem, rows: Sequence[int] | None) -> Tensor:
    numbers = list(range(min(20, problem.num_rows)) if rows is None else rows)
    if not numbers or min(numbers) < 0 or max(numbers) >= problem.num_rows:
        raise ValueError(
            f"expected numbers of rows from 0 to {problem.num_rows - 1}, got {numbers}"
        )
    return torch.tensor(numbers, device=next(iter(problem.batch.values())).device)


def _start(problem: Problem, num_chains: int) -> Tensor:
    """Draws of the prior, every second one of the guide if there is one, `(C, B, d)`."""
    flatten = problem.unconstrained.flatten
    inputs: dict[str, Any] = problem.program.inputs(problem.batch)
    prior = [simulate(problem.story, problem.num_rows, **inputs) for _ in range(num_chains)]
    start = torch.stack([flatten(draws) for draws in prior])
    if problem.guide is not None:
        start[::2] = flatten(problem.draw(len(start[::2])).values)
    return start
