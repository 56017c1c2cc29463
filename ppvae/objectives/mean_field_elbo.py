r"""Mean-field ELBO: the KL terms of latent sites in closed form where there is one."""

__all__ = ["MeanFieldELBO"]

import warnings
from typing import Any

import pyro.infer
from pyro import poutine
from torch.distributions import kl_divergence

from ppvae.guides.site_sampler import PointMass
from ppvae.objectives.pyro_elbo import PyroELBO
from ppvae.story import local_params


class MeanFieldELBO(PyroELBO):
    r"""The ELBO with analytic KL terms, :math:`E_q[\log p(x|z)] - KL(q(z|x) \| p(z))`.

    Assumes a guide that draws its sites independently of each other. A site without a closed form
    falls back to Monte Carlo, with a warning that names it. Other arguments as for `Objective`.

    Raises:
        ValueError: If no site's KL has a closed form.

    Source:
        D. P. Kingma, M. Welling (2014). Auto-encoding variational Bayes.
    """

    assumes = "independent sites, KL in closed form"
    elbo = pyro.infer.TraceMeanField_ELBO

    def check(self) -> None:
        super().check()
        few, drawn = self.problem.rows(slice(0, 2)), self.problem.guide_sites
        with local_params(self.story), few.eval_mode(0):
            trace = poutine.trace(lambda: few.program.run_conditioned(few.batch, {}, 0)).get_trace()
        latent = self.sites.latent
        stuck = sorted(n for n in latent if not _is_closed(drawn[n].fn, trace.nodes[n]["fn"]))
        if len(stuck) == len(latent):
            raise ValueError(
                "expected a site whose KL divergence from guide to story has a closed form, got "
                f"none at {stuck}; use trace_elbo, which takes every term by Monte Carlo"
            )
        if stuck:
            warnings.warn(
                f"no closed form of the KL divergence at {stuck}: by Monte Carlo there",
                stacklevel=4,
            )


def _is_closed(q: Any, p: Any) -> bool:
    """Whether KL(q || p) has a closed form; a point mass has none: its draw is random."""
    if isinstance(q, PointMass):
        return False
    try:
        kl_divergence(q, p)
    except NotImplementedError:
        return False
    return True
