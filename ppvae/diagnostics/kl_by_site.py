r"""KL(q(z | x) || p(z)) of each row, split over the latent sites and their numbers."""

__all__ = ["KLBySite", "kl_by_site"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ppvae.diagnostics.finding import Finding
from ppvae.diagnostics.requirements import Pair, as_problem
from ppvae.estimate import Estimate
from ppvae.problem.kl_terms import kl_terms
from ppvae.result import Result
from ppvae.story import TensorDict

TOTAL = "(total)"


@dataclass(frozen=True)
class KLBySite(Result):
    """What each latent site costs, in nats per row; the costs add up to `total`.

    Arguments:
        sites: Site -> `(B,)`. Sites that the guide draws together, as one vector whose density does
            not split, stand under one name, joined by `+`; so do finite sites that it leaves out,
            whose posterior is exact. A label that some rows miss costs nothing where it is shown.
        numbers: Site -> `(*row)`, mean over the rows, for sites whose numbers are independent of
            each other under both guide and story.
        total: `(B,)`.
    """

    sites: dict[str, Estimate]
    numbers: dict[str, Estimate]
    total: Estimate

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Mean cost of each site over the rows."""
        costs = self.sites.items()
        return tuple(Finding.of(f"KL of site {name}, nats", cost.mean()) for name, cost in costs)


def kl_by_site(
    story: Pair,
    guide: nn.Module | None = None,
    data: Any = None,
    *,
    num_particles: int = 100,
    seed: int = 0,
) -> KLBySite:
    """E_q[log q(z | x) − log p(z)] of each row, split over the latent sites.

    Exact where the distributions of guide and story have a closed form, by particles elsewhere. A
    site whose prior depends on other sites is held against its prior given their draws. Finite
    sites that the guide leaves out, or some rows miss, are drawn from their exact posterior given
    the others.

    Arguments:
        story: The story; or a `Problem` of story, guide and rows, with nothing for the two next.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_particles: Draws of each row, S.
        seed: Seed of the draws.

    Returns:
        Nats per row, 0 or more up to Monte Carlo error.

    Raises:
        ValueError: If the story has global latent sites, or there are fewer than two particles.
    """
    if num_particles < 2:
        raise ValueError(f"expected at least two particles, got num_particles={num_particles}")
    problem = as_problem(story, guide, data, "KL by site")
    per_row: list[dict[str, Estimate]] = []
    means: list[TensorDict] = []
    with torch.no_grad(), problem.eval_mode(seed):
        for piece in problem.pieces(num_particles=num_particles):
            _, terms = kl_terms(piece, num_particles)
            sums = {name: t.flatten(2).sum(-1) if t.dim() > 2 else t for name, t in terms.items()}
            sums[TOTAL] = torch.stack(list(sums.values())).sum(0)
            per_row.append({name: Estimate.of_draws(t) for name, t in sums.items()})
            means.append({name: t.mean(0) for name, t in terms.items() if t.dim() > 2})
    sites = {name: Estimate.cat([p[name] for p in per_row]) for name in per_row[0]}
    total = sites.pop(TOTAL)
    # The spread over rows holds the Monte Carlo error of each.
    numbers = {k: Estimate.of_draws(torch.cat([m[k] for m in means])) for k in means[0]}
    return KLBySite(sites, numbers, total)
