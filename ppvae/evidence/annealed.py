r"""Annealed importance sampling from the guide to the posterior."""

__all__ = ["annealed_log_weights"]

import torch
from torch import Tensor, nn

from ppvae.evidence.coordinates import Coordinates, coordinates_of
from ppvae.evidence.hmc import HMC, adapt
from ppvae.story import Flat, LogJoint, Sites, TensorDict

PILOT_CHAINS = 4
FIRST_STEP_SIZE = 0.3


def annealed_log_weights(
    story: nn.Module,
    guide: nn.Module,
    batch: TensorDict,
    sites: Sites,
    *,
    num_chains: int,
    num_temperatures: int,
    num_leapfrog: int,
) -> tuple[Tensor, float]:
    r"""log weights of chains annealed through :math:`\pi_\beta \propto q^{1-\beta} p(x, \cdot)^\beta`.

    The path runs in coordinates where the guide is a standard normal. Step sizes are tuned for each row and
    temperature in a pilot run and frozen, so that exp of the log weight is an unbiased estimate of p(x).

    Arguments:
        story: The story.
        guide: Where the path starts; the nearer to the posterior, the fewer temperatures.
        batch: The rows, name -> `(B, *event)`.
        sites: The story's sites.
        num_chains: C.
        num_temperatures: Steps of the linear schedule from 0 to 1.
        num_leapfrog: Leapfrog steps of a transition.

    Returns:
        Log weights `(C, B)`, in nats, and the mean acceptance probability.

    Source:
        R. M. Neal (2001). Annealed importance sampling.
    """
    where = coordinates_of(guide, batch, sites)
    path = _Path(LogJoint(story, batch, sites), Flat(sites.local_latent), where)
    betas = torch.linspace(0, 1, num_temperatures + 1).tolist()
    like = next(iter(batch.values()))
    pilot = torch.randn(PILOT_CHAINS, where.num_rows, where.dim).to(like)
    step_sizes = _tune(path, pilot, betas, num_leapfrog)
    eps = torch.randn(num_chains, where.num_rows, where.dim).to(like)
    return _anneal(path, eps, betas, step_sizes, num_leapfrog)


class _Path:
    """The annealed densities over noise, and the rate at which they change with the temperature."""

    def __init__(self, log_joint: LogJoint, flat: Flat, where: Coordinates) -> None:
        self.log_joint, self.flat, self.where = log_joint, flat, where

    def log_target(self, eps: Tensor) -> Tensor:
        """log p(x, z(eps)) with both Jacobians, `(C, B)`, in nats."""
        u, log_det = self.where.push(eps)
        latents, log_det_sites = self.flat.unpack(u)
        return self.log_joint(latents) + log_det + log_det_sites

    def log_density(self, eps: Tensor, beta: float) -> Tensor:
        """The density at inverse temperature `beta`, `(C, B)`."""
        return (1 - beta) * self.where.log_start(eps) + beta * self.log_target(eps)

    def slope(self, eps: Tensor) -> Tensor:
        """Derivative of `log_density` by beta: the log weight rate, `(C, B)`."""
        return self.log_target(eps) - self.where.log_start(eps)


def _tune(path: _Path, eps: Tensor, betas: list[float], num_leapfrog: int) -> list[Tensor]:
    """Step sizes `(B,)` at each temperature from a run of their own, two transitions each."""
    hmc, tuned = HMC(num_leapfrog), []
    step_size = torch.full((eps.shape[1],), FIRST_STEP_SIZE).to(eps)
    for beta in betas[1:]:
        for _ in range(2):
            eps, accept = hmc.step(lambda e, b=beta: path.log_density(e, b), eps, step_size)
            step_size = adapt(step_size, accept)
        tuned.append(step_size)
    return tuned


def _anneal(
    path: _Path, eps: Tensor, betas: list[float], step_sizes: list[Tensor], num_leapfrog: int
) -> tuple[Tensor, float]:
    hmc, log_w, accepted = HMC(num_leapfrog), torch.zeros(eps.shape[:2]).to(eps), 0.0
    for before, beta, step_size in zip(betas, betas[1:], step_sizes, strict=False):
        with torch.no_grad():
            log_w = log_w + (beta - before) * path.slope(eps)
        if beta < 1:  # a move at the end changes no weight
            eps, accept = hmc.step(lambda e, b=beta: path.log_density(e, b), eps, step_size)
            accepted += float(accept.mean()) / max(1, len(betas) - 2)
    return log_w, accepted
