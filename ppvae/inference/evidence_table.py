r"""Several ways to find log p(x) side by side, from the same q* on the same rows."""

__all__ = ["EvidenceTable", "check_methods", "evidence_table", "methods_for"]

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ppvae.data import to_batch
from ppvae.data.chunks import numbers_per_row
from ppvae.estimate import Estimate
from ppvae.inference.bdmc import Sandwich, certify
from ppvae.inference.check_finite import is_annealable
from ppvae.inference.exact import exact_evidence, knows_exact
from ppvae.inference.local_search import fit_local
from ppvae.inference.methods import FRESH, METHODS, EvidenceConfig, check_method, evidence_of
from ppvae.inference.pieces import kept_rows, over_rows, rows_at_a_time, sibling_path
from ppvae.inference.quadrature import NODES, quadrature_numbers
from ppvae.progress import stages
from ppvae.result import Result
from ppvae.story import Flat, TensorDict, num_rows_of, trace_sites

LOWER_BOUNDS = ("iwae", "ais")


@dataclass(frozen=True)
class EvidenceTable(Result):
    """log p(x) of the same rows by several methods.

    Arguments:
        estimates: Method -> log p(x) of each row, `(B,)`, in nats.
        seconds: Method -> seconds that it took, beside those for q*.
        local_seconds: Seconds that q* took, for all methods together.
        certificate: Bounds on simulated rows with the same annealing; None where none was.
    """

    estimates: dict[str, Estimate]
    seconds: dict[str, float]
    local_seconds: float
    certificate: Sandwich | None = None

    @property
    def best(self) -> str | None:
        """The best lower bound in mean; None if no method was one."""
        bounds = [name for name in self.estimates if name in LOWER_BOUNDS]
        return max(bounds, key=lambda n: float(self.estimates[n].value.mean()), default=None)


def methods_for(story: nn.Module, batch: TensorDict) -> list[str]:
    """Every method that suits a story and these rows."""
    sites = trace_sites(story, batch)
    suits = {"exact": knows_exact(story, batch), "iwae": True, "ais": is_annealable(sites)}
    suits["quadrature"] = suits["ais"] and Flat(sites.local_continuous).dim in NODES
    return [name for name in METHODS if suits[name]]


def evidence_table(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    methods: Sequence[str],
    *,
    effort: EvidenceConfig | None = None,
    num_simulated: int = 0,
    checkpoint: Path | str | None = None,
    progress: bool = False,
) -> EvidenceTable:
    """Measure log p(x) by each method.

    Arguments:
        story: The story.
        guide: A guide for it; refined to q* once, for all methods.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        methods: Keys of `METHODS`.
        effort: Particles, annealing, steps of the search, seed.
        num_simulated: Simulated rows on which bidirectional Monte Carlo certifies the annealing; 0 for none.
        checkpoint: A file that keeps the rows that are done, with one beside it for the certificate; a call that finds
            them goes on from there, to the same numbers.
        progress: Show a progress bar on a terminal.

    Returns:
        The table.

    Raises:
        ValueError: If a method is unknown or does not suit the story, or an estimate is not finite.
    """
    effort = EvidenceConfig() if effort is None else effort
    batch = to_batch(story, data)
    check_methods(methods, story, guide, batch, effort)
    numbers = effort.annealing.num_chains * numbers_per_row(batch)
    if "quadrature" in methods:
        numbers = max(numbers, quadrature_numbers(trace_sites(story, batch)))
    step = rows_at_a_time(batch, guide, numbers)
    needs_guide = any(m != "exact" for m in methods)
    total = -(-num_rows_of(batch) // step) * (len(methods) + 1) + 1
    with stages(total, progress) as stage:

        def measure(rows: TensorDict, first_row: int, seed: int | None) -> TensorDict:
            stage(f"row {first_row}: searching q*")
            clock = [time.perf_counter()]
            local: nn.Module = guide
            if needs_guide:
                local, _ = fit_local(story, guide, rows, effort.local_steps, seed)
            clock.append(time.perf_counter())
            own = replace(effort, seed=None if seed is None else seed + FRESH)
            found: TensorDict = {}
            for name in methods:
                stage(f"row {first_row}: {name}")
                one = evidence_of(name, story, local, rows, own, first_row, lambda: None)
                found |= Estimate(one["value"], one["std_error"]).to_named(name)
                clock.append(time.perf_counter())
            for name, (start, end) in zip(("q*", *methods), pairwise(clock), strict=True):
                each = torch.tensor((end - start) / num_rows_of(rows))
                found[f"{name} seconds"] = each.expand(num_rows_of(rows))
            return found

        told = {"methods": list(methods), **asdict(effort)}
        kept = kept_rows(checkpoint, told, story, guide, batch)
        found = over_rows(batch, measure, step, seed=effort.seed, checkpoint=kept)
        certificate = None
        if num_simulated and "ais" in methods and not hasattr(story, "run_conditioned"):
            stage("certifying on simulated rows")
            certificate = certify(
                story, guide, batch, n=num_simulated, annealing=effort.annealing,
                local_steps=effort.local_steps, seed=effort.seed,
                checkpoint=sibling_path(checkpoint, "certificate"),
            )  # fmt: skip
    seconds = {name: float(found[f"{name} seconds"].sum()) for name in ("q*", *methods)}
    estimates = {name: Estimate.named(name, found) for name in methods}
    return EvidenceTable(estimates, seconds, seconds.pop("q*"), certificate)


def check_methods(
    methods: Sequence[str],
    story: nn.Module,
    guide: nn.Module,
    batch: TensorDict,
    effort: EvidenceConfig,
) -> None:
    """Refuse methods that there are not, or that do not suit the story, before anything long is begun.

    Raises:
        ValueError: At the first fault.
    """
    if not methods:
        raise ValueError(f"expected at least one method among {', '.join(METHODS)}")
    for method in methods:
        check_method(method, story, guide, batch, effort)
        if method == "exact":
            exact_evidence(story, {name: value[:1] for name, value in batch.items()})
        if method == "quadrature":
            quadrature_numbers(trace_sites(story, batch))
