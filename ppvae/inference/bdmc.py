r"""Bidirectional Monte Carlo: log p(x) between two bounds, on rows that the story itself
generates.
"""

__all__ = ["Sandwich", "bdmc", "certify", "certify_problem"]

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ppvae.config import EvidenceConfig
from ppvae.data import to_batch
from ppvae.data.chunks import is_unamortized
from ppvae.estimate import Estimate
from ppvae.inference.ais import AnnealedSampler
from ppvae.inference.annealing_path import annealing_path
from ppvae.inference.check_finite import check_finite
from ppvae.inference.local_search import fit_local
from ppvae.inference.log_evidence import FRESH, row_settings
from ppvae.inference.methods import check_methods, numbers_of_a_row
from ppvae.inference.pieces import in_precision, map_rows, piece_size, results_file
from ppvae.problem import Problem
from ppvae.progress import Stage
from ppvae.story import TensorDict, num_rows_of, simulate

# Mean width, in nats per row, below which the annealing settings are called converged.
CONVERGED_WIDTH = 0.1


@dataclass(frozen=True)
class Sandwich:
    """Bounds on log p(x) of simulated rows, `(B,)`, in nats.

    Arguments:
        lower: From forward chains: log p(x) or less in expectation.
        upper: From backward chains: log p(x) or more in expectation. They all start at the one
            exact draw that comes with a row, so that its error is unknown, NaN; that of its mean is
            known from the spread over rows.
    """

    lower: Estimate
    upper: Estimate

    @property
    def width(self) -> Estimate:
        """upper − lower, `(B,)`: at most so much is the evidence estimate off, in expectation."""
        return self.upper - self.lower

    @property
    def converged(self) -> bool:
        """Whether the mean width is below 0.1 nat per row, twice its standard error included."""
        width = self.width.mean()
        return float(width.value + 2 * width.std_error) < CONVERGED_WIDTH

    @property
    def verdict(self) -> str:
        """Whether the settings have converged, and else what to do."""
        if self.converged:
            return "converged"
        if float(self.width.value.mean()) < CONVERGED_WIDTH:
            return "too uncertain to call converged: take more rows, chains or temperatures"
        return "not converged: take more temperatures"

    def __str__(self) -> str:
        return (
            f"log p(x) of {len(self.lower)} simulated rows: lower bound {self.lower.mean()}, "
            f"upper bound {self.upper.mean()}, {self.width.mean()} apart, nats per row: "
            f"{self.verdict}"
        )


def bdmc(
    story: nn.Module,
    guide: nn.Module | None,
    *,
    observed: Sequence[str] | None = None,
    covariates: Any = None,
    config: EvidenceConfig = EvidenceConfig(),
    checkpoint: Path | str | None = None,
    executor: Executor | None = None,
    **fields: Any,
) -> Sandwich:
    """Sandwich log p(x) of rows that the story generates, to see whether annealing has converged.

    A generated row comes with an exact draw from its posterior, from which chains run back to the
    guide: they bound log p(x) from above, as forward chains do from below. With the settings that
    were used on real rows, the width tells how far those estimates can be trusted.

    Arguments:
        story: The story.
        guide: The guide from which annealing starts; None from the prior.
        observed: Names of the sites that count as data; by default those for which the guide was
            built.
        covariates: Rows of the story's covariates, at least `num_simulated`, anything that
            `ppvae.data.as_rows` takes.
        config: Annealing, steps of the search for q*, rows to generate (`num_simulated`); chains
            are resampled forwards only.
        checkpoint: A file that keeps the rows that are done, as in `log_evidence`.
        executor: As in `log_evidence`.
        fields: Fields of `config` to change.

    Returns:
        The bounds.

    Raises:
        ValueError: If the observed sites are not known, or the story has global latent sites or
            nothing continuous.

    Source:
        R. B. Grosse, Z. Ghahramani, R. P. Adams (2015). Sandwiching the marginal likelihood using
        bidirectional Monte Carlo.
    """
    config = config.replace(**fields)
    if is_unamortized(guide):
        raise ValueError(
            "expected an amortized guide, got one with parameters for each row, which knows its "
            "own rows only"
        )
    story, guide = in_precision(config.precision, story, guide)
    n = config.num_simulated
    given = {} if covariates is None else to_batch(story, covariates, n)
    if given and num_rows_of(given) < n:
        raise ValueError(f"expected covariates of at least {n} rows, got {num_rows_of(given)}")
    drawn = simulate(story, n, seed=config.seed, **given)
    names = _observed_names(guide, drawn, observed)
    guide = None if config.annealing.start == "prior" else guide
    problem = Problem.of(story, guide, {**{k: drawn[k] for k in names}, **given})
    return _sandwich(problem, drawn, config, checkpoint, executor)


def certify(
    story: nn.Module,
    guide: nn.Module | None,
    data: Any,
    *,
    config: EvidenceConfig = EvidenceConfig(),
    checkpoint: Path | str | None = None,
    executor: Executor | None = None,
    **fields: Any,
) -> Sandwich:
    """Whether the settings that are used on these data have converged: `bdmc` on rows that the
    story makes like them.

    The simulated rows show the sites that the data show, under the data's own covariates.

    Arguments:
        story: The story.
        guide: The guide from which annealing starts.
        data: The real rows, anything that `ppvae.data.as_rows` takes.
        config: The settings to be judged, on `num_simulated` rows, fewer where the data have fewer
            covariates.
        checkpoint: As in `bdmc`.
        executor: As in `bdmc`.
        fields: Fields of `config` to change.

    Returns:
        The bounds; `.converged` is the verdict.

    Raises:
        ValueError: As `bdmc`, and for an adopted story, which observes its data by itself.
    """
    config = config.replace(**fields)
    story, guide = in_precision(config.precision, story, guide)
    found = certify_problem(Problem.of(story, guide, data), config, checkpoint, executor)
    if found is None:
        raise ValueError(
            "expected a story that generates rows for bidirectional Monte Carlo, got an adopted "
            "model, which observes its data by itself; write it as a story"
        )
    return found


def certify_problem(
    problem: Problem,
    config: EvidenceConfig,
    checkpoint: Path | str | None = None,
    executor: Executor | None = None,
) -> Sandwich | None:
    """As `certify`, of rows that are checked already; None for no simulated rows, and for an
    adopted story.
    """
    if not config.num_simulated or not problem.program.generates_rows:
        return None
    covariates = problem.covariates
    n = min([config.num_simulated, *(len(v) for v in covariates.values())])
    given = {k: v[:n] for k, v in covariates.items()}
    drawn = simulate(problem.story, n, seed=config.seed, **given)
    shown = {k: drawn[k] for k in problem.batch if k not in covariates}
    guide = None if config.annealing.start == "prior" else problem.guide
    simulated = replace(problem.on({**shown, **given}), guide=guide, total_rows=n)
    return _sandwich(simulated, drawn, config, checkpoint, executor)


def _sandwich(
    problem: Problem,
    drawn: TensorDict,
    config: EvidenceConfig,
    checkpoint: Path | str | None,
    executor: Executor | None,
) -> Sandwich:
    """The bounds on simulated rows; `drawn` holds all their sites."""
    check_methods(["ais"], problem, config)
    latents = {name: drawn[name] for name in problem.sites.local_continuous}
    found = map_rows(
        partial(_bounds_of_piece, latents=latents, config=config),
        problem,
        piece_size(problem, config.rows_per_piece, numbers_of_a_row(["ais"], problem, config)),
        seed=config.seed,
        checkpoint=results_file(checkpoint, row_settings(config), problem),
        executor=executor,
        progress=config.progress,
    )
    return Sandwich(Estimate.named("lower", found), Estimate.named("upper", found))


def _bounds_of_piece(
    rows: Problem, seed: int, stage: Stage, *, latents: TensorDict, config: EvidenceConfig
) -> TensorDict:
    """Both bounds with their errors, `(B,)` each, in nats."""
    stage("certifying on simulated rows")
    rows, _ = fit_local(rows, config.local_steps, seed + 1)
    exact = {k: v[rows.first_row : rows.first_row + rows.num_rows] for k, v in latents.items()}
    with rows.eval_mode(seed + FRESH), torch.no_grad():
        sampler = AnnealedSampler(annealing_path(config.annealing.start, rows), config.annealing)
        lower, inverse = sampler.forward().log_mean(), sampler.backward(exact).log_mean()
    upper = Estimate(-inverse.value, torch.full_like(inverse.value, torch.nan))
    check_finite(lower.value, rows)
    check_finite(upper.value, rows)
    return lower.to_named("lower") | upper.to_named("upper")


def _observed_names(
    guide: nn.Module | None, drawn: TensorDict, observed: Sequence[str] | None
) -> list[str]:
    """The sites that count as data."""
    names = list(observed or [])
    if observed is None:
        features: Any = getattr(guide, "features", None)
        names = [k for k in getattr(features, "shapes", {}) if k in drawn]
    unknown = sorted(set(names) - set(drawn))
    if unknown or not names:
        raise ValueError(
            f"expected observed=... to name sites of the story {sorted(drawn)} that count as "
            f"data, got {unknown or 'none'}"
        )
    return names
