r"""Bidirectional Monte Carlo: log p(x) between two bounds, on rows that the story itself generates."""

__all__ = ["Sandwich", "bdmc"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.estimate import Estimate
from ppvae.evidence.annealed import Annealing
from ppvae.evidence.bounds import importance_evidence
from ppvae.guides.local import localize, optimize_local
from ppvae.story import TensorDict, measuring, num_rows_of, simulate
from ppvae.weights import batch_for, check_pair, refuse_global

# Mean width, in nats per row, below which the annealing settings are called converged.
CONVERGED_WIDTH = 0.1


@dataclass(frozen=True)
class Sandwich:
    """Bounds on log p(x) of simulated rows, `(B,)`, in nats.

    Arguments:
        lower: From forward chains: log p(x) or less in expectation.
        upper: From backward chains: log p(x) or more in expectation.
    """

    lower: Estimate
    upper: Estimate

    @property
    def gap(self) -> Estimate:
        """Width upper − lower: at most so much is the evidence estimate off, in expectation."""
        return self.upper - self.lower

    @property
    def converged(self) -> bool:
        """Whether the mean width is below 0.1 nat per row."""
        return float(self.gap.value.mean()) < CONVERGED_WIDTH

    def __str__(self) -> str:
        verdict = "converged" if self.converged else "not converged: take more temperatures"
        return (
            f"log p(x) of {len(self.lower)} simulated rows: lower bound {self.lower.mean()}, upper bound "
            f"{self.upper.mean()}, {self.gap.mean()} apart, nats per row: {verdict}"
        )


def bdmc(
    story: nn.Module,
    guide: nn.Module,
    n: int = 50,
    *,
    observed: Sequence[str] | None = None,
    covariates: Any = None,
    num_chains: int = 16,
    num_temperatures: int = 50,
    num_leapfrog: int = 5,
    refine: bool = True,
    seed: int | None = 0,
) -> Sandwich:
    """Sandwich log p(x) of rows that the story generates, to see whether annealing has converged.

    A generated row comes with an exact draw from its posterior, from which chains run back to the guide: they
    bound log p(x) from above, as forward chains do from below. With the settings that were used on real
    rows, the width tells how far those estimates can be trusted.

    Arguments:
        story: The story.
        guide: The guide from which annealing starts.
        n: Rows to generate.
        observed: Names of the sites that count as data; by default those for which the guide was built.
        covariates: Rows of the story's covariates, at least `n`, anything that `ppvae.data.as_rows` takes.
        num_chains: Chains in each direction and row.
        num_temperatures: Steps of the linear schedule.
        num_leapfrog: Leapfrog steps of a transition.
        refine: Whether the guide is first refined to q* on each row, as `log_evidence` does.
        seed: Seed of everything.

    Returns:
        The bounds.

    Raises:
        ValueError: If the observed sites are not known, or the story has global latent sites.

    Source:
        R. B. Grosse, Z. Ghahramani, R. P. Adams (2015). Sandwiching the marginal likelihood using bidirectional
        Monte Carlo.
    """
    given = {} if covariates is None else batch_for(story, covariates, n)
    if given and num_rows_of(given) < n:
        raise ValueError(f"expected covariates of at least {n} rows, got {num_rows_of(given)}")
    if getattr(guide, "is_local", False):
        raise ValueError(
            "expected an amortized guide, got a local one, which knows its own rows only"
        )
    drawn = simulate(story, n, seed=seed, **given)
    batch = _observed_part(guide, drawn, observed, given)
    sites = check_pair(story, guide, batch)
    refuse_global(sites, "bidirectional Monte Carlo")
    if refine:
        guide = localize(guide, batch, story)
        optimize_local(story, guide, seed=None if seed is None else seed + 1)
    latents = {name: drawn[name] for name in sites.local_continuous}
    with measuring(None if seed is None else seed + 7, story, guide), torch.no_grad():
        annealing = Annealing(
            story, guide, batch, sites, num_temperatures=num_temperatures, num_leapfrog=num_leapfrog
        )
        lower = importance_evidence(annealing.forward(num_chains))
        inverse = importance_evidence(-annealing.backward(latents, num_chains))
    return Sandwich(lower, Estimate(-inverse.value, inverse.std_error))


def _observed_part(
    guide: nn.Module, drawn: TensorDict, observed: Sequence[str] | None, given: Mapping[str, Tensor]
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
