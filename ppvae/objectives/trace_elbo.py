r"""Trace ELBO: every term by Monte Carlo, path-wise where possible, else by score function."""

__all__ = ["TraceELBO"]

import pyro.infer

from ppvae.objectives.pyro_elbo import PyroELBO


class TraceELBO(PyroELBO):
    r"""The ELBO, every term by Monte Carlo, :math:`E_q[\log p(x, z) - \log q(z|x)]`.

    The gradient comes back along the draws of reparametrised sites (SGVB), and by the score
    function without a baseline at the others. Arguments as for `Objective`.

    Source:
        D. P. Kingma, M. Welling (2014). Auto-encoding variational Bayes.
    """

    assumes = "nothing"
    elbo = pyro.infer.Trace_ELBO
