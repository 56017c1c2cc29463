r"""KL(q(z | x) || p(z)), site by site and number by number: what the code of a row costs in nats."""

__all__ = ["KLBySite", "kl_by_site", "kl_terms"]

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppvae.data import to_batch
from ppvae.diagnostics.finding import Finding
from ppvae.estimate import Estimate
from ppvae.problem.particles import chunks, log_prob_by_site, unknown_rows
from ppvae.problem.weights import check_pair, draw, refuse_global
from ppvae.result import Result
from ppvae.story import Layout, LogJoint, Sites, TensorDict, num_rows_of, seeded_eval
from ppvae.story.sites import is_bookkeeping

TOTAL = "(total)"


@dataclass(frozen=True)
class KLBySite(Result):
    """What each latent site costs, in nats per row; the costs add up to `total`.

    Arguments:
        sites: Site -> `(B,)`. Sites that the guide draws together, as one vector whose density does not split, stand
            under one name, joined by `+`; so do finite sites that it leaves out, whose posterior is exact. A label that
            some rows miss costs nothing where it is shown.
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


def kl_by_site(
    story: nn.Module, guide: nn.Module, data: Any, *, num_particles: int = 100, seed: int = 0
) -> KLBySite:
    """E_q[log q(z | x) − log p(z)] of each row, split over the latent sites.

    Exact where the distributions of guide and story have a closed form, by particles elsewhere. A site whose prior
    depends on other sites is held against its prior given their draws. Finite sites that the guide leaves out, or some
    rows miss, are drawn from their exact posterior given the others.

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
    batch = to_batch(story, data)
    sites = check_pair(story, guide, batch)
    refuse_global(sites, "KL by site")
    per_row: list[dict[str, Estimate]] = []
    means: list[TensorDict] = []
    with torch.no_grad(), seeded_eval(seed, story, guide):
        for _, rows in chunks(batch, guide, num_particles):
            _, terms = kl_terms(story, guide, rows, sites, num_particles)
            sums = {name: t.flatten(2).sum(-1) if t.dim() > 2 else t for name, t in terms.items()}
            sums[TOTAL] = torch.stack(list(sums.values())).sum(0)
            per_row.append({name: Estimate.of_draws(t) for name, t in sums.items()})
            means.append({name: t.mean(0) for name, t in terms.items() if t.dim() > 2})
    found = {name: Estimate.cat([p[name] for p in per_row]) for name in per_row[0]}
    total = found.pop(TOTAL)
    # The spread over rows holds the Monte Carlo error of each.
    numbers = {k: Estimate.of_draws(torch.cat([m[k] for m in means])) for k in means[0]}
    return KLBySite(found, numbers, total)


def kl_terms(
    story: nn.Module, guide: nn.Module, rows: TensorDict, sites: Sites, num_particles: int
) -> tuple[TensorDict, TensorDict]:
    """Draws of every latent site, and the terms of its KL divergence.

    Arguments:
        story: The story.
        guide: Its guide.
        rows: Rows, name -> `(B, *event)`.
        sites: The story's sites, all of them local.
        num_particles: S.

    Returns:
        Site -> draws `(S, B, *row)`; and site -> `(S, B, *row)` nats where it splits into numbers, else `(S, B)`, under
        the names of `KLBySite.sites`.
    """
    ours, theirs = _Factors(), _Factors()
    drawn = draw(guide, rows, num_particles, sites, ours.around)
    own = list(drawn.values)
    latents, log_conditional = LogJoint(story, rows, sites).complete(
        drawn.values, 1 if own else num_particles
    )
    left_out = [name for name in latents if name not in own]
    with theirs:
        log_prior = log_prob_by_site(story, rows, latents, sites)
    terms: TensorDict = {}
    if set(drawn.by_site) - set(own):  # the draws of several sites hang on auxiliary ones
        terms["+".join(own)] = drawn.local - torch.stack([log_prior[k] for k in own]).sum(0)
        own = []
    for name in own:
        later = set(latents) - set(own[: own.index(name)])
        split = ours.split(theirs, name, sites, later)
        shape = (num_particles, num_rows_of(rows), *sites[name].row_shape)
        whole = drawn.by_site[name] - log_prior[name]
        terms[name] = whole if split is None or split.shape != shape else split
    if left_out:
        priors = [_where_unknown(log_prior[k], rows.get(k)) for k in left_out]
        terms["+".join(left_out)] = log_conditional - torch.stack(priors).sum(0)
    return latents, terms


def _where_unknown(log_prior: Tensor, shown: Tensor | None) -> Tensor:
    """log p of a site `(S, B)`, 0 in rows whose data show it."""
    return log_prior if shown is None else log_prior * unknown_rows(shown)


class _Factors(Messenger):
    """Keeps the distribution and the value of every site that a program meets, in Pyro's layout."""

    def __init__(self) -> None:
        super().__init__()
        self.met: dict[str, tuple[Any, Tensor, Layout]] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not is_bookkeeping(msg):
            layout = Layout.of(msg["cond_indep_stack"], msg["fn"].event_dim)
            self.met[msg["name"]] = (_number_by_number(msg["fn"]), msg["value"], layout)

    def around(self, particle: int | None) -> AbstractContextManager[Any]:
        """Watch a guide that draws all particles in one run; one run for each tells too little."""
        if particle is None:
            return self
        self.met.clear()
        return nullcontext()

    def split(
        self, prior: "_Factors", name: str, sites: Sites, later: Collection[str]
    ) -> Tensor | None:
        """KL terms of each number of a site, rows first; None where one side does not split into numbers.

        The closed form stands for a mean over the site alone. It is out of place where the site's prior could depend
        on sites that are drawn after it, as these may depend on it.

        Arguments:
            prior: What the story said.
            name: The site.
            sites: The story's sites.
            later: Sites that were drawn with or after this one.
        """
        if name not in self.met:
            return None
        (q, value, layout), (p, _, _) = self.met[name], prior.met[name]
        if q.event_dim or p.event_dim:
            return None
        names = list(sites)
        causes_first = not set(names[: names.index(name)]) & set(later)
        terms = _exact(q, p) if causes_first else None
        terms = q.log_prob(value) - p.log_prob(value) if terms is None else terms
        terms = terms.expand(torch.broadcast_shapes(terms.shape, value.shape))
        return layout.to_rows(terms, particle_dim=sites.particle_dim)


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
