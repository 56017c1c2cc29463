r"""Reference posteriors of chosen rows, by long chains that know nothing of the guide's family."""

__all__ = ["Reference", "reference_posterior"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor, nn

from ppvae.data import to_batch
from ppvae.data.chunks import CHUNK_NUMBERS, numbers_per_row
from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.inference.chains import run_chains
from ppvae.problem.particles import inputs_of
from ppvae.problem.weights import check_pair, draw, refuse_global
from ppvae.story import (
    Flat,
    LogJoint,
    Sites,
    TensorDict,
    check_data,
    num_rows_of,
    seeded_eval,
    simulate,
)

MAX_RHAT = 1.01
MIN_ESS = 400.0  # over all chains: 100 for each of four
MIN_SAMPLES = 4  # below this the halves of a chain have no variance


@dataclass(frozen=True)
class Reference:
    """Draws of p(z | x) of some rows, and whether the chains agree.

    Arguments:
        batch: The rows, name -> `(B, *event)`.
        sites: The story's sites.
        u: All continuous local latent sites on the real line, `(C, N, B, d)`, see `ppvae.story.Flat`.
        rhat: Split R-hat of each number, `(B, d)`; 1 when chains agree.
        ess: Effective sample size of each number over all chains, `(B, d)`, in draws.
        acceptance: Mean acceptance probability, `(B,)`.
        divergences: Divergent trajectories, `(B,)`.
    """

    batch: TensorDict
    sites: Sites
    u: Tensor
    rhat: Tensor
    ess: Tensor
    acceptance: Tensor
    divergences: Tensor

    @property
    def draws(self) -> TensorDict:
        """Continuous latent site -> `(C * N, B, *row)`."""
        return Flat(self.sites.local_continuous).unflatten(self.u.flatten(0, 1))[0]

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
    def finding(self) -> Finding:
        """Largest R-hat over rows and numbers."""
        advice = f"{int((~self.converged).sum())} of {len(self.converged)} rows: run longer (num_warmup, num_samples)"
        if int(self.divergences.sum()):
            advice += (
                f"; {int(self.divergences.sum())} divergences: the posterior has a narrow place"
            )
        return Finding(
            "reference chains, largest R-hat", float(self.rhat.max()), float("nan"),
            f"< {MAX_RHAT}, ESS >= {MIN_ESS:.0f} (least {float(self.ess.min()):.0f})",
            self.verdict, "" if self.verdict == "pass" else advice,
        )  # fmt: skip


def reference_posterior(
    story: nn.Module,
    data: Any,
    *,
    rows: Sequence[int] | None = None,
    guide: nn.Module | None = None,
    num_chains: int = 8,
    num_warmup: int = 300,
    num_samples: int = 500,
    seed: int = 0,
) -> Reference:
    """Sample the posterior of chosen rows with Hamiltonian Monte Carlo, all rows and chains in one batch.

    Finite discrete sites are summed over exactly: the chains walk in the continuous ones.

    Chains start at draws of the prior, and every second one at a draw of the guide if one is given: a mode that
    the guide lost then has a chance to be found, and chains that disagree show in R-hat.

    Arguments:
        story: The story; its latent sites are inside the plate `data`, some of them continuous.
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
        ValueError: If a row is not there, a latent site is global, or discrete and not finite, none is continuous, or
            there are too few chains or samples.

    Source:
        R. M. Neal (2011). MCMC using Hamiltonian dynamics.
        A. Gelman, D. B. Rubin (1992). Inference from iterative simulation using multiple sequences (R-hat, of split
        chains, without ranks).
    """
    if num_chains < 2 or num_samples < MIN_SAMPLES or num_warmup < 0:
        raise ValueError(
            f"expected at least 2 chains of {MIN_SAMPLES} samples, got {num_chains} of {num_samples}"
            f" after {num_warmup} of warm-up"
        )
    batch = _chosen(to_batch(story, data), rows)
    sites = check_data(story, batch)
    refuse_global(sites, "a reference posterior per row")
    if not sites.local_continuous:
        raise ValueError(
            f"expected a continuous latent site to walk in, got only the discrete sites {sorted(sites.latent)}; where they "
            "are finite and few, the guide `enumerated` is their exact posterior"
        )
    flat = Flat(sites.local_continuous)
    if guide is not None:
        check_pair(story, guide, batch)
    step = max(1, CHUNK_NUMBERS // (numbers_per_row(batch) * num_chains))
    parts = []
    modules = (story,) if guide is None else (story, guide)
    with seeded_eval(seed, *modules), torch.no_grad():
        for first in range(0, num_rows_of(batch), step):
            some = {k: v[first : first + step] for k, v in batch.items()}
            start = _start(story, guide, some, sites, num_chains)
            density = _Density(LogJoint(story, some, sites), flat)
            parts.append(run_chains(density, start, num_warmup, num_samples))
    u = torch.cat([p.u for p in parts], 2)
    return Reference(
        batch=batch,
        sites=sites,
        u=u,
        rhat=split_gelman_rubin(u, 0, 1),
        ess=effective_sample_size(u, 0, 1),
        acceptance=torch.cat([p.acceptance for p in parts]),
        divergences=torch.cat([p.divergences for p in parts]),
    )


class _Density:
    """log p(x, z) of each row on the real line, `(C, B, d)` -> `(C, B)`, in nats."""

    def __init__(self, log_joint: LogJoint, flat: Flat) -> None:
        self.log_joint, self.flat = log_joint, flat

    def __call__(self, u: Tensor) -> Tensor:
        latents, log_det = self.flat.unflatten(u)
        return self.log_joint(latents) + log_det


def _chosen(batch: TensorDict, rows: Sequence[int] | None) -> TensorDict:
    num_rows = num_rows_of(batch)
    picked = list(range(min(20, num_rows)) if rows is None else rows)
    if not picked or min(picked) < 0 or max(picked) >= num_rows:
        raise ValueError(f"expected numbers of rows from 0 to {num_rows - 1}, got {picked}")
    return {k: v[torch.tensor(picked, device=v.device)] for k, v in batch.items()}


def _start(
    story: nn.Module, guide: nn.Module | None, batch: TensorDict, sites: Sites, num_chains: int
) -> Tensor:
    """`(C, B, d)`."""
    flat = Flat(sites.local_continuous)
    inputs: dict[str, Any] = inputs_of(story, batch)
    num_rows = num_rows_of(batch)
    prior = [flat.flatten(simulate(story, num_rows, **inputs)) for _ in range(num_chains)]
    start = torch.stack(prior)
    if guide is not None:
        start[::2] = flat.flatten(draw(guide, batch, len(start[::2]), sites).values)
    return start
