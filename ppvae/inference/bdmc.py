r"""Bidirectional Monte Carlo: log p(x) between two bounds, on rows that the story itself generates."""

__all__ = ["Sandwich", "bdmc", "certify"]

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data import to_batch
from ppvae.data.chunks import numbers_per_row
from ppvae.estimate import Estimate
from ppvae.inference.ais import AnnealedPath
from ppvae.inference.annealing import DEFAULT, Annealing
from ppvae.inference.annealing_path import path_of
from ppvae.inference.check_finite import check_finite
from ppvae.inference.local_search import fit_local
from ppvae.inference.methods import FRESH, LOCAL_STEPS, EvidenceConfig, check_method
from ppvae.inference.pieces import in_precision, kept_rows, over_rows, rows_at_a_time
from ppvae.story import TensorDict, num_rows_of, seeded_eval, simulate, split_batch, trace_sites

# Mean width, in nats per row, below which the annealing settings are called converged.
CONVERGED_WIDTH = 0.1


@dataclass(frozen=True)
class Sandwich:
    """Bounds on log p(x) of simulated rows, `(B,)`, in nats.

    Arguments:
        lower: From forward chains: log p(x) or less in expectation.
        upper: From backward chains: log p(x) or more in expectation. They all start at the one exact draw that comes with a
            row, so that its error is unknown, NaN; that of its mean is known from the spread over rows.
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
            f"log p(x) of {len(self.lower)} simulated rows: lower bound {self.lower.mean()}, upper bound "
            f"{self.upper.mean()}, {self.width.mean()} apart, nats per row: {self.verdict}"
        )


def bdmc(
    story: nn.Module,
    guide: nn.Module | None,
    n: int = 50,
    *,
    observed: Sequence[str] | None = None,
    covariates: Any = None,
    annealing: Annealing = DEFAULT,
    local_steps: int = LOCAL_STEPS,
    precision: str = "auto",
    seed: int | None = 0,
    checkpoint: Path | str | None = None,
) -> Sandwich:
    """Sandwich log p(x) of rows that the story generates, to see whether annealing has converged.

    A generated row comes with an exact draw from its posterior, from which chains run back to the guide: they
    bound log p(x) from above, as forward chains do from below. With the settings that were used on real
    rows, the width tells how far those estimates can be trusted.

    Arguments:
        story: The story.
        guide: The guide from which annealing starts; None from the prior.
        n: Rows to generate.
        observed: Names of the sites that count as data; by default those for which the guide was built.
        covariates: Rows of the story's covariates, at least `n`, anything that `ppvae.data.as_rows` takes.
        annealing: Settings, the same in both directions; chains are resampled forwards only.
        local_steps: Steps that the search for q* may take, as in `log_evidence`; 0 takes the guide as it is.
        precision: `float32` or `float64`; `auto` leaves story and guide as they are.
        seed: Seed of everything.
        checkpoint: A file that keeps the rows that are done, as in `log_evidence`.

    Returns:
        The bounds.

    Raises:
        ValueError: If the observed sites are not known, or the story has global latent sites or nothing continuous.

    Source:
        R. B. Grosse, Z. Ghahramani, R. P. Adams (2015). Sandwiching the marginal likelihood using bidirectional
        Monte Carlo.
    """
    if getattr(guide, "is_unamortized", False):
        raise ValueError(
            "expected an amortized guide, got a local one, which knows its own rows only"
        )
    story, guide = in_precision(precision, story, guide)
    given = {} if covariates is None else to_batch(story, covariates, n)
    if given and num_rows_of(given) < n:
        raise ValueError(f"expected covariates of at least {n} rows, got {num_rows_of(given)}")
    drawn = simulate(story, n, seed=seed, **given)
    batch = _observed_part(guide, drawn, observed, given)
    effort = EvidenceConfig(annealing=annealing, local_steps=local_steps, seed=seed)
    check_method("ais", story, guide, batch, effort)
    guide = None if annealing.start == "prior" else guide
    step = rows_at_a_time(batch, guide, annealing.num_chains * numbers_per_row(batch))

    def measure(rows: TensorDict, first_row: int, seed: int | None) -> TensorDict:
        last = first_row + num_rows_of(rows)
        latents = {k: v[first_row:last] for k, v in drawn.items() if k not in rows}
        found = _both_ways(story, guide, rows, latents, annealing, local_steps, seed)
        for bound in ("lower", "upper"):
            check_finite(found[bound], story, guide, rows, first_row)
        return found

    kept = kept_rows(checkpoint, asdict(effort), story, guide, batch)
    found = over_rows(batch, measure, step, seed=seed, checkpoint=kept)
    return Sandwich(Estimate.named("lower", found), Estimate.named("upper", found))


def certify(
    story: nn.Module,
    guide: nn.Module | None,
    data: Any,
    *,
    n: int = 50,
    annealing: Annealing = DEFAULT,
    local_steps: int = LOCAL_STEPS,
    precision: str = "auto",
    seed: int | None = 0,
    checkpoint: Path | str | None = None,
) -> Sandwich:
    """Whether the settings that are used on these data have converged: `bdmc` on rows that the story makes like them.

    The simulated rows show the sites that the data show, under the data's own covariates.

    Arguments:
        story: The story.
        guide: The guide from which annealing starts.
        data: The real rows, anything that `ppvae.data.as_rows` takes.
        n: Rows to generate, fewer where the data have fewer covariates.
        annealing: The settings to be judged.
        local_steps: Steps that the search for q* may take.
        precision: As it was used on the data.
        seed: Seed of everything.
        checkpoint: As in `bdmc`.

    Returns:
        The bounds; `.converged` is the verdict.

    Raises:
        ValueError: As `bdmc`, and for an adopted story, which observes its data by itself.
    """
    if hasattr(story, "run_conditioned"):
        raise ValueError(
            "expected a story that generates rows for bidirectional Monte Carlo, got an adopted model, which observes its "
            "data by itself; write it as a story"
        )
    batch = to_batch(story, data)
    covariates = split_batch(story, batch)[1]
    return bdmc(
        story,
        guide,
        min([n, *(len(v) for v in covariates.values())]),
        observed=[k for k in batch if k not in covariates],
        covariates=covariates or None,
        annealing=annealing,
        local_steps=local_steps,
        precision=precision,
        seed=seed,
        checkpoint=checkpoint,
    )


def _both_ways(
    story: nn.Module,
    guide: nn.Module | None,
    rows: TensorDict,
    latents: TensorDict,
    annealing: Annealing,
    local_steps: int,
    seed: int | None,
) -> TensorDict:
    """Both bounds with their errors, `(B,)` each, in nats."""
    if guide is not None:
        guide, _ = fit_local(story, guide, rows, local_steps, None if seed is None else seed + 1)
    modules = (story,) if guide is None else (story, guide)
    with seeded_eval(None if seed is None else seed + FRESH, *modules), torch.no_grad():
        sites = trace_sites(story, rows)
        latents = {name: latents[name] for name in sites.local_continuous}
        path = AnnealedPath(path_of(annealing.start, story, guide, rows, sites), annealing)
        lower, inverse = path.forward().log_mean(), path.backward(latents).log_mean()
    upper = Estimate(-inverse.value, torch.full_like(inverse.value, torch.nan))
    return lower.to_named("lower") | upper.to_named("upper")


def _observed_part(
    guide: nn.Module | None,
    drawn: TensorDict,
    observed: Sequence[str] | None,
    given: Mapping[str, Tensor],
) -> TensorDict:
    """The rows as data would show them."""
    names = list(observed or [])
    if observed is None:
        features = getattr(guide, "features", None)
        names = [k for k in getattr(features, "shapes", {}) if k in drawn]
    unknown = sorted(set(names) - set(drawn))
    if unknown or not names:
        raise ValueError(
            f"expected observed=... to name sites of the story {sorted(drawn)} that count as data, got "
            f"{unknown or 'none'}"
        )
    return {**{k: drawn[k] for k in names}, **given}
