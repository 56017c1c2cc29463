r"""KL(q(z | x) || p(z)), site by site and number by number: what the code of a row costs in nats."""

__all__ = ["KLBySite", "kl_by_site"]

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppvae.diagnostics.finding import Finding, number_names
from ppvae.diagnostics.particles import chunks, log_prob_by_site
from ppvae.estimate import Estimate
from ppvae.plots import unit_bars
from ppvae.story import Layout, Sites, TensorDict, measuring, num_rows_of
from ppvae.story.sites import is_bookkeeping
from ppvae.weights import batch_for, check_pair, draw, refuse_global

TOTAL = "(total)"


@dataclass(frozen=True)
class KLBySite:
    """What each latent site costs, in nats per row; the costs add up to `total`.

    Arguments:
        sites: Site -> `(B,)`. Sites that the guide draws together, as one vector whose density does not split, stand
            under one name, joined by `+`.
        numbers: Site -> `(*row)`, mean over the rows, for sites whose numbers are independent of each other under
            both guide and story.
        total: `(B,)`.
    """

    sites: dict[str, Estimate]
    numbers: dict[str, Estimate]
    total: Estimate

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Mean cost of each site over the rows."""
        lines = []
        for name, cost in self.sites.items():
            mean = cost.mean()
            value, error = float(mean.value), float(mean.std_error)
            lines.append(Finding(f"KL of site {name}, nats", value, error, "none", "none"))
        return tuple(lines)

    def figure(self, axes: Axes | None = None) -> Figure:
        """A bar for each latent number, or for each site where none splits; `axes`: where, else a new figure."""
        costs = self.numbers or {name: cost.mean() for name, cost in self.sites.items()}
        names = number_names({name: cost.value.shape for name, cost in costs.items()})
        values = torch.cat([cost.value.flatten() for cost in costs.values()])
        errors = torch.cat([cost.std_error.flatten() for cost in costs.values()])
        return unit_bars(
            names, values, errors, None, label="KL(q(z | x) || p(z)), mean row (nats)",
            title="What each latent number costs" if self.numbers else "What each latent site costs",
            axes=axes,
        )  # fmt: skip


def kl_by_site(
    story: nn.Module, guide: nn.Module, data: Any, *, num_particles: int = 100, seed: int = 0
) -> KLBySite:
    """E_q[log q(z | x) − log p(z)] of each row, split over the latent sites.

    Exact where the distributions of guide and story have a closed form, by particles elsewhere. A site whose prior
    depends on other sites is held against its prior given their draws.

    Arguments:
        story: The story.
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
    batch = batch_for(story, data)
    sites = check_pair(story, guide, batch)
    refuse_global(sites, "KL by site")
    per_row: list[dict[str, Estimate]] = []
    means: list[TensorDict] = []
    with torch.no_grad(), measuring(seed, story, guide):
        for _, rows in chunks(batch, guide, num_particles):
            terms = _terms(story, guide, rows, sites, num_particles)
            sums = {name: t.flatten(2).sum(-1) if t.dim() > 2 else t for name, t in terms.items()}
            sums[TOTAL] = torch.stack(list(sums.values())).sum(0)
            per_row.append({name: Estimate.of_draws(t) for name, t in sums.items()})
            means.append({name: t.mean(0) for name, t in terms.items() if t.dim() > 2})
    found = {name: Estimate.cat([p[name] for p in per_row]) for name in per_row[0]}
    total = found.pop(TOTAL)
    # The spread over rows holds the Monte Carlo error of each.
    numbers = {k: Estimate.of_draws(torch.cat([m[k] for m in means])) for k in means[0]}
    return KLBySite(found, numbers, total)


def _terms(
    story: nn.Module, guide: nn.Module, rows: TensorDict, sites: Sites, num_particles: int
) -> TensorDict:
    """Terms of the KL divergence of each particle: `(S, B, *row)` where a site splits, else `(S, B)`."""
    ours, theirs = _Factors(), _Factors()
    with ours:
        drawn = draw(guide, rows, num_particles, sites)
    with theirs:
        log_prior = log_prob_by_site(story, rows, drawn.values, sites)
    joint = sorted(set(drawn.by_site) - set(sites.latent))
    if joint:  # the draws of several sites hang on auxiliary ones
        name = "+".join(sites.latent)
        return {name: drawn.local - torch.stack([log_prior[k] for k in sites.latent]).sum(0)}
    terms = {}
    for name in sites.latent:
        split = ours.split(theirs, name, sites.particle_dim)
        shape = (num_particles, num_rows_of(rows), *sites[name].row_shape)
        whole = drawn.by_site[name] - log_prior[name]
        terms[name] = whole if split is None or split.shape != shape else split
    return terms


class _Factors(Messenger):
    """Keeps the distribution and the value of every site that a program meets, in Pyro's layout."""

    def __init__(self) -> None:
        super().__init__()
        self.met: dict[str, tuple[Any, Tensor, Layout]] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not is_bookkeeping(msg):
            layout = Layout.of(msg["cond_indep_stack"], msg["fn"].event_dim)
            self.met[msg["name"]] = (_number_by_number(msg["fn"]), msg["value"], layout)

    def split(self, prior: "_Factors", name: str, particle_dim: int) -> Tensor | None:
        """KL terms of each number of a site, rows first; None where one side does not split into numbers."""
        (q, value, layout), (p, _, _) = self.met[name], prior.met[name]
        if q.event_dim or p.event_dim:
            return None
        terms = _exact(q, p)
        terms = q.log_prob(value) - p.log_prob(value) if terms is None else terms
        terms = terms.expand(torch.broadcast_shapes(terms.shape, value.shape))
        return layout.to_rows(terms, particle_dim=particle_dim)


def _number_by_number(fn: Any) -> Any:
    """The distribution of single numbers inside one that treats them as an event."""
    while type(fn).__name__ in ("Independent", "ReshapedDistribution"):
        fn = fn.base_dist
    return fn


def _exact(q: Any, p: Any) -> Tensor | None:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None
