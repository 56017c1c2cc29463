r"""log p(x) of each row, by the method that the user names."""

__all__ = ["ais", "log_evidence"]

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ppvae.data import to_batch
from ppvae.data.chunks import numbers_per_row
from ppvae.estimate import Estimate
from ppvae.inference.ais import Annealed
from ppvae.inference.annealing import DEFAULT, Annealing
from ppvae.inference.local_search import fit_local
from ppvae.inference.methods import (
    FRESH,
    LOCAL_STEPS,
    METHODS,
    EvidenceConfig,
    check_method,
    evidence_of,
    is_from_prior,
)
from ppvae.inference.pieces import in_precision, kept_rows, over_rows, rows_at_a_time
from ppvae.inference.quadrature import quadrature_numbers
from ppvae.progress import stages
from ppvae.story import TensorDict, num_rows_of, trace_sites


def log_evidence(
    story: nn.Module,
    data: Any,
    *,
    method: str = "ais",
    guide: nn.Module | None = None,
    num_particles: int = 1000,
    annealing: Annealing = DEFAULT,
    error: str = "delta",
    local_steps: int = LOCAL_STEPS,
    precision: str = "auto",
    seed: int | None = 0,
    checkpoint: Path | str | None = None,
    progress: bool = False,
) -> Estimate:
    """log p(x) of each row; `iwae` and `ais` are lower bounds in expectation.

    Arguments:
        story: The story.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        method: `exact` (the story's closed form, or the sum over finite discrete sites), `iwae`, `ais` or
            `quadrature`.
        guide: Needed by all but `exact` and annealing from the prior. An amortized guide is first refined to q* on each
            row; a local guide is used as it is.
        num_particles: Particles of `iwae`.
        annealing: Settings of `ais`.
        error: Standard error of `iwae`: `delta` (to first order) or `jackknife`.
        local_steps: Steps that the search for q* may take; 0 takes the amortized guide as it is.
        precision: `float32` or `float64`; `auto` leaves story and guide as they are.
        seed: Seed of all draws.
        checkpoint: A file that keeps the rows that are done; a call that finds it goes on from there, to the same
            numbers.
        progress: Show a progress bar on a terminal.

    Returns:
        `(B,)`, in nats per row.

    Raises:
        ValueError: If the method is unknown, a guide is needed and absent, the story has no closed form or has
            global latent sites, discrete sites cannot be summed out, or an estimate is not finite: naming rows and site.

    Source:
        Y. Burda, R. Grosse, R. Salakhutdinov (2016). Importance weighted autoencoders.
        R. M. Neal (2001). Annealed importance sampling.
    """
    if method not in METHODS:
        raise ValueError(f"expected an evidence method among {', '.join(METHODS)}; got '{method}'")
    effort = EvidenceConfig(num_particles, annealing, error, local_steps, seed)
    story, guide = in_precision(precision, story, guide)
    found = _measured(method, story, guide, data, effort, checkpoint, progress)
    return Estimate(found["value"], found["std_error"])


def ais(
    story: nn.Module,
    data: Any,
    *,
    guide: nn.Module | None = None,
    annealing: Annealing = DEFAULT,
    local_steps: int = LOCAL_STEPS,
    precision: str = "auto",
    seed: int | None = 0,
    checkpoint: Path | str | None = None,
    progress: bool = False,
) -> Annealed:
    """Annealed importance sampling, with what `log_evidence(method="ais")` leaves out: acceptance, effective chains.

    Arguments:
        story: The story.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        guide: Where annealing starts, first refined to q*; not needed from the prior.
        annealing: Settings.
        local_steps: Steps that the search for q* may take; 0 takes the amortized guide as it is.
        precision: `float32` or `float64`; `auto` leaves story and guide as they are.
        seed: Seed of all draws.
        checkpoint: A file that keeps the rows that are done.
        progress: Show a progress bar on a terminal.

    Returns:
        log p(x) of each row, and how its chains fared.

    Raises:
        ValueError: As `log_evidence`.
    """
    effort = EvidenceConfig(annealing=annealing, local_steps=local_steps, seed=seed)
    story, guide = in_precision(precision, story, guide)
    found = _measured("ais", story, guide, data, effort, checkpoint, progress)
    return Annealed(
        Estimate(found["value"], found["std_error"]),
        found["acceptance"],
        found["ess"],
        int(found["num_temperatures"].max()),
    )


def _measured(
    method: str,
    story: nn.Module,
    guide: nn.Module | None,
    data: Any,
    effort: EvidenceConfig,
    checkpoint: Path | str | None,
    progress: bool,
) -> TensorDict:
    """All rows piece by piece, from q* on each."""
    batch = to_batch(story, data)
    if method == "exact" or is_from_prior(method, effort):
        guide = None
    check_method(method, story, guide, batch, effort)
    kept = kept_rows(checkpoint, {"method": method, **asdict(effort)}, story, guide, batch)
    annealing, step = effort.annealing, _step(method, story, guide, batch, effort)
    num_ticks = 2 * annealing.num_temperatures + 2 if method == "ais" else 2
    adaptive = method == "ais" and annealing.schedule == "adaptive"
    total = None if adaptive else num_ticks * -(-num_rows_of(batch) // step)
    with stages(total, progress) as stage:

        def measure(rows: TensorDict, first_row: int, seed: int | None) -> TensorDict:
            stage(f"row {first_row}: searching q*")
            local = guide
            if guide is not None:
                local, _ = fit_local(story, guide, rows, effort.local_steps, seed)
            own = replace(effort, seed=None if seed is None else seed + FRESH)
            tick = partial(stage, f"row {first_row}: {method}")
            return evidence_of(method, story, local, rows, own, first_row, tick)

        return over_rows(batch, measure, step, seed=effort.seed, checkpoint=kept)


def _step(
    method: str,
    story: nn.Module,
    guide: nn.Module | None,
    batch: TensorDict,
    effort: EvidenceConfig,
) -> int:
    """Rows of a piece."""
    if method == "quadrature":
        return rows_at_a_time(batch, guide, quadrature_numbers(trace_sites(story, batch)))
    chains = effort.annealing.num_chains if method == "ais" else 1
    return rows_at_a_time(batch, guide, chains * numbers_per_row(batch))
