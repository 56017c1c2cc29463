r"""How much the inference loses, and why: approximation gap and amortization gap of each row."""

__all__ = ["Gaps", "gaps"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.diagnostics.khat import khat
from ppvae.estimate import Estimate
from ppvae.evidence import (
    METHODS,
    annealed_evidence,
    elbo,
    exact_evidence,
    importance_evidence,
)
from ppvae.guides import localize, optimize_local
from ppvae.story import TensorDict, num_rows_of
from ppvae.weights import batch_for, check_pair, log_weights, refuse_global

ROWS_AT_A_TIME = 250
ELBO_PARTICLES = 500


@dataclass(frozen=True)
class Gaps:
    """The gaps of each row, `(B,)`, in nats, with standard errors.

    Arguments:
        log_evidence: log p(x), or the best lower bound on it.
        elbo_local: L[q*], the best that the guide's family can do on the row.
        elbo: L[q], what the amortized guide does.
        method: How `log_evidence` was found.
        khat: Pareto k-hat of the amortized guide's importance weights, `(B,)`.
        local_steps: Optimiser steps that q* took, at most.
        local_converged: Whether the search for q* converged on all rows.
    """

    log_evidence: Estimate
    elbo_local: Estimate
    elbo: Estimate
    method: str
    khat: Tensor
    local_steps: int
    local_converged: bool

    @property
    def approximation_gap(self) -> Estimate:
        """log p(x) − L[q*]: what a larger family would win."""
        return self.log_evidence - self.elbo_local

    @property
    def amortization_gap(self) -> Estimate:
        """L[q*] − L[q]: what an encoder of its own for each row would win."""
        return self.elbo_local - self.elbo

    @property
    def inference_gap(self) -> Estimate:
        """log p(x) − L[q], the sum of the two."""
        return self.log_evidence - self.elbo

    def __str__(self) -> str:
        lines = [f"gaps over {len(self.elbo)} rows, nats per row (log evidence by {self.method})"]
        for name in (
            "log_evidence", "elbo_local", "elbo",
            "approximation_gap", "amortization_gap", "inference_gap",
        ):  # fmt: skip
            lines.append(f"  {name:<18} {getattr(self, name).mean()}")
        return "\n".join(lines)


def gaps(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    evidence: str = "auto",
    num_particles: int = 1000,
    num_chains: int = 16,
    num_temperatures: int = 50,
    seed: int = 0,
) -> Gaps:
    """Measure the approximation gap and the amortization gap of a guide on each row.

    The story's parameters stay fixed. For each row the best member q* of the guide's own family is searched,
    starting at the guide's answer.

    Arguments:
        story: The story.
        guide: A guide of `ppvae.guides`, or any Pyro guide whose sites are independent given the row.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        evidence: `auto` (the closed form if the story has one, else `best`), `best` (the higher of `iwae` and
            `ais`, in mean), `exact`, `iwae` or `ais`.
        num_particles: Particles of `iwae` and k-hat.
        num_chains: Chains of `ais`.
        num_temperatures: Temperatures of `ais`.
        seed: Seed of all draws.

    Returns:
        The gaps.

    Raises:
        ValueError: If the story has global latent sites, or the guide has no un-amortized version.

    Source:
        C. Cremer, X. Li, D. Duvenaud (2018). Inference suboptimality in variational autoencoders.
    """
    methods = evidence_methods(story, evidence)
    batch = batch_for(story, data)
    refuse_global(check_pair(story, guide, batch), "gaps")
    parts = [
        _gaps_of(story, guide, rows, methods, num_particles, num_chains, num_temperatures, seed)
        for rows in _slices(batch)
    ]
    log_evidence = {m: Estimate.cat([p[0][m] for p in parts]) for m in methods}
    method = max(methods, key=lambda m: float(log_evidence[m].value.mean()))
    return Gaps(
        log_evidence=log_evidence[method],
        elbo_local=Estimate.cat([p[1] for p in parts]),
        elbo=elbo(story, guide, batch, num_particles=ELBO_PARTICLES, seed=seed + 2),
        method=method,
        khat=khat(log_weights(story, guide, batch, num_particles, seed=seed + 3)),
        local_steps=max(p[2].num_steps for p in parts),
        local_converged=all(p[2].converged for p in parts),
    )


def evidence_methods(story: nn.Module, evidence: str) -> list[str]:
    """The methods that a choice of `evidence` runs."""
    if evidence == "auto":
        evidence = "exact" if hasattr(story, "log_evidence") else "best"
    if evidence == "best":
        return ["iwae", "ais"]
    if evidence not in METHODS:
        known = ", ".join(("auto", "best", *METHODS))
        raise ValueError(f"expected evidence among {known}; got '{evidence}'")
    return [evidence]


def _gaps_of(
    story: nn.Module,
    guide: nn.Module,
    rows: TensorDict,
    methods: list[str],
    num_particles: int,
    num_chains: int,
    num_temperatures: int,
    seed: int,
) -> tuple[dict[str, Estimate], Estimate, Any]:
    """log p(x) by each method, L[q*], and how the search for q* went, for as many rows as fit at a time."""
    local = localize(guide, rows, story)
    search = optimize_local(story, local, seed=seed)
    found: dict[str, Estimate] = {}
    for method in methods:
        if method == "exact":
            found[method] = exact_evidence(story, rows)
        elif method == "iwae":
            found[method] = importance_evidence(
                log_weights(story, local, rows, num_particles, seed=seed + 4)
            )
        else:
            found[method] = annealed_evidence(
                story,
                local,
                rows,
                num_chains=num_chains,
                num_temperatures=num_temperatures,
                seed=seed,
            )
    with torch.no_grad():
        return found, elbo(story, local, rows, num_particles=ELBO_PARTICLES, seed=seed + 5), search


def _slices(batch: TensorDict) -> list[TensorDict]:
    starts = range(0, num_rows_of(batch), ROWS_AT_A_TIME)
    return [{k: v[s : s + ROWS_AT_A_TIME] for k, v in batch.items()} for s in starts]
