r"""Terms of KL(q(z | x) || p(z)), site by site and number by number: what the code of a row
costs in nats."""

__all__ = ["kl_terms"]

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from ppvae.problem.draws import draw
from ppvae.problem.missing import missing_rows
from ppvae.problem.problem import Problem
from ppvae.story import Layout, Sites, TensorDict
from ppvae.story.sites import is_bookkeeping


def kl_terms(problem: Problem, num_particles: int) -> tuple[TensorDict, TensorDict]:
    """Draws of every latent site, and the terms of its KL divergence.

    Exact where the distributions of guide and story have a closed form, by particles elsewhere.

    Arguments:
        problem: Story, guide and rows; all latent sites are local.
        num_particles: S.

    Returns:
        Site -> draws `(S, B, *row)`; and site -> `(S, B, *row)` nats where it splits into numbers,
        else `(S, B)`. Sites that the guide draws together, and finite sites that it leaves out,
        stand under one name, joined by `+`.
    """
    sites, guide_factors, story_factors = problem.sites, _Factors(), _Factors()
    guide: Any = problem.guide
    drawn = draw(guide, problem.batch, num_particles, sites, guide_factors.around)
    own = list(drawn.values)
    latents, log_conditional = problem._joint.complete(drawn.values, 1 if own else num_particles)
    left_out = [name for name in latents if name not in own]
    with story_factors:
        log_prior = problem.log_joint_by_site(latents)
    terms: TensorDict = {}
    if set(drawn.by_site) - set(own):  # the draws of several sites depend on auxiliary ones
        terms["+".join(own)] = drawn.local - torch.stack([log_prior[k] for k in own]).sum(0)
        own = []
    for name in own:
        later = set(latents) - set(own[: own.index(name)])
        split = guide_factors.split(story_factors, name, sites, later)
        shape = (num_particles, problem.num_rows, *sites[name].row_shape)
        whole = drawn.by_site[name] - log_prior[name]
        terms[name] = whole if split is None or split.shape != shape else split
    if left_out:  # a site that the data show costs nothing
        priors = [
            log_prior[k] * missing_rows(problem.batch[k]) if k in problem.batch else log_prior[k]
            for k in left_out
        ]
        terms["+".join(left_out)] = log_conditional - torch.stack(priors).sum(0)
    return latents, terms


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
        """KL terms of each number of a site, rows first; None where one side does not split into
        numbers.

        The closed form stands for a mean over the site alone. It is out of place where the site's
        prior could depend on sites that are drawn after it, as these may depend on it.

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
        has_causes_first = not set(names[: names.index(name)]) & set(later)
        terms = _exact(q, p) if has_causes_first else None
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
