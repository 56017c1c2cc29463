r"""Free bits: the ELBO whose KL term costs nothing below a floor."""

__all__ = ["FreeBits"]

from typing import Any

import torch
from torch import Tensor

from ppvae.objectives.base import Objective
from ppvae.problem import Problem
from ppvae.story import SampleRows, TensorDict


class FreeBits(Objective):
    r"""The ELBO with a floor under each site's KL, :math:`E_q \log p(x|z) - \sum_s \max(\lambda,
    KL_s)`.

    :math:`KL_s` is the batch's mean of log q − log p at the site: a site below the floor feels no
    pull towards its prior. Sites that the guide draws together share one floor; global sites have
    none. Other arguments as for `Objective`.

    Arguments:
        floor: λ, in nats per row and site.

    Raises:
        ValueError: If `floor` is negative.

    Source:
        D. P. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling (2016).
        Improving variational inference with inverse autoregressive flow.
    """

    assumes = "reparametrised sites"
    needs_paths = True

    def __init__(self, problem: Problem, *, floor: float = 0.5, **options: Any) -> None:
        if not floor >= 0:
            raise ValueError(f"expected a floor of 0 nats or more, got {floor}")
        super().__init__(problem, **options)
        self.floor = floor

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        self.kl_weights.warmup = kl_weight
        problem = self.problem.on(batch)
        drawn = problem.draw(self.num_particles)
        log_p = problem.log_joint_by_site(drawn.values)
        bound = torch.stack([log_p[k].mean() for k in self.sites.observed]).sum()
        for weight, kl in self._costs(drawn, log_p):
            bound = bound - weight * kl.clamp(min=self.floor)
        shared = [self.kl_weights.weight_of(k) * log_p[k] for k in self.sites.global_latent]
        log_q_shared = self.kl_weights.of_guide_global(drawn)
        return self.loss(bound, sum(shared, -log_q_shared))

    def _costs(self, drawn: SampleRows, log_p: TensorDict) -> list[tuple[float | Tensor, Tensor]]:
        """Weight and KL `()` of each site, in nats; of all sites that are drawn jointly."""
        latent, weight_of = self.sites.local_latent, self.kl_weights.weight_of
        if {k for k in drawn.by_site if drawn.is_local[k]} - set(latent):
            log_prior = torch.stack([log_p[k].mean() for k in latent]).sum()
            return [(weight_of(""), drawn.local.mean() - log_prior)]
        return [(weight_of(k), (drawn.by_site[k] - log_p[k]).mean()) for k in latent]
