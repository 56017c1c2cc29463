r"""Annealed importance sampling between a guide and the posterior, forwards and backwards."""

__all__ = ["Annealing", "Path"]

from itertools import pairwise

import torch
from torch import Tensor, nn

from ppvae.evidence.coordinates import Coordinates, coordinates_of
from ppvae.evidence.hmc import HMC, adapt
from ppvae.story import Flat, LogJoint, Sites, TensorDict

PILOT_CHAINS = 4
PILOT_MOVES = 2
FIRST_STEP_SIZE = 0.3


class Annealing:
    r"""The path :math:`\pi_\beta \propto q^{1-\beta} p(x, \cdot)^\beta` on each row, with step sizes tuned and frozen.

    The path runs in coordinates where the guide is a standard normal. Step sizes are tuned for each row and
    temperature in a pilot run of their own; they then stay, so that exp of a forward log weight is an unbiased
    estimate of p(x), and exp of minus a backward one of 1 / p(x).

    Arguments:
        story: The story.
        guide: Where the path starts; the nearer to the posterior, the fewer temperatures.
        batch: The rows, name -> `(B, *event)`.
        sites: The story's sites.
        num_temperatures: Steps of the linear schedule from 0 to 1.
        num_leapfrog: Leapfrog steps of a transition.

    Source:
        R. M. Neal (2001). Annealed importance sampling.
        R. B. Grosse, Z. Ghahramani, R. P. Adams (2015). Sandwiching the marginal likelihood using bidirectional
        Monte Carlo.
    """

    def __init__(
        self,
        story: nn.Module,
        guide: nn.Module,
        batch: TensorDict,
        sites: Sites,
        *,
        num_temperatures: int,
        num_leapfrog: int,
    ) -> None:
        if num_temperatures < 1 or num_leapfrog < 1:
            raise ValueError(
                f"expected at least one temperature and one leapfrog step, got {num_temperatures} and {num_leapfrog}"
            )
        where = coordinates_of(guide, batch, sites)
        self.path = Path(LogJoint(story, batch, sites), Flat(sites.local_continuous), where)
        self.betas = torch.linspace(0, 1, num_temperatures + 1).tolist()
        self.like = next(iter(batch.values()))
        self.hmc = HMC(num_leapfrog)
        self.step_sizes = self._tune()

    def forward(self, num_chains: int) -> Tensor:
        """Log weights of chains from the guide to the posterior, `(C, B)`, in nats: log p(x) or less in mean."""
        return self._run(self._noise(num_chains), self.betas)

    def backward(self, latents: TensorDict, num_chains: int) -> Tensor:
        """Log weights of chains from the posterior to the guide, `(C, B)`, in nats: log p(x) or more in mean.

        Arguments:
            latents: One exact posterior draw a row, as it comes with simulated rows, name -> `(B, *row)`.
            num_chains: Chains started from each draw.
        """
        with torch.no_grad():
            eps = self.path.where.pull(self.path.flat.pack(latents))
        return self._run(eps.expand(num_chains, *eps.shape), self.betas[::-1])

    def _noise(self, num_chains: int) -> Tensor:
        where = self.path.where
        return torch.randn(num_chains, where.num_rows, where.dim).to(self.like)

    def _run(self, eps: Tensor, betas: list[float]) -> Tensor:
        """Weigh and move along the schedule; a move at its far end would change no weight."""
        log_w = torch.zeros(eps.shape[:2]).to(eps)
        for before, beta in pairwise(betas):
            with torch.no_grad():
                log_w = log_w + abs(beta - before) * self.path.slope(eps)
            if beta != betas[-1]:
                eps, _ = self.hmc.step(self.path.at(beta), eps, self.step_sizes[beta])
        return log_w

    def _tune(self) -> dict[float, Tensor]:
        """Step sizes `(B,)` at each temperature, from chains that are then thrown away."""
        eps, tuned = self._noise(PILOT_CHAINS), {}
        step_size = torch.full((eps.shape[1],), FIRST_STEP_SIZE).to(eps)
        for beta in self.betas[1:-1]:
            for _ in range(PILOT_MOVES):
                eps, accept = self.hmc.step(self.path.at(beta), eps, step_size)
                step_size = adapt(step_size, accept)
            tuned[beta] = step_size
        return tuned


class Path:
    """The annealed densities over noise, and the rate at which they change with the temperature."""

    def __init__(self, log_joint: LogJoint, flat: Flat, where: Coordinates) -> None:
        self.log_joint, self.flat, self.where = log_joint, flat, where

    def log_target(self, eps: Tensor) -> Tensor:
        """log p(x, z(eps)) with both Jacobians, `(C, B)`, in nats."""
        u, log_det = self.where.push(eps)
        latents, log_det_sites = self.flat.unpack(u)
        return self.log_joint(latents) + log_det + log_det_sites

    def at(self, beta: float) -> "_AtTemperature":
        """The density at inverse temperature `beta`."""
        return _AtTemperature(self, beta)

    def slope(self, eps: Tensor) -> Tensor:
        """Derivative of the log density by beta: the rate of the log weight, `(C, B)`."""
        return self.log_target(eps) - self.where.log_start(eps)


class _AtTemperature:
    def __init__(self, path: Path, beta: float) -> None:
        self.path, self.beta = path, beta

    def __call__(self, eps: Tensor) -> Tensor:
        start = self.path.where.log_start(eps)
        return (1 - self.beta) * start + self.beta * self.path.log_target(eps)
