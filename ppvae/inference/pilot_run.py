r"""The pilot run of annealing: it tunes step sizes and, if asked, places the temperatures; its chains are thrown away."""

__all__ = ["Pilot", "pilot_run"]

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.inference.annealing import Annealing, schedule_of
from ppvae.inference.annealing_path import Path, tempered
from ppvae.inference.hmc import HMC, adapt

PILOT_CHAINS = 4
# A schedule is read off the pilot's weights, which takes more chains than step sizes do.
PILOT_CHAINS_OF_ADAPTIVE = 16
PILOT_MOVES = 2
FIRST_STEP_SIZE = 0.5
MAX_TEMPERATURES = 10_000
BISECTIONS = 30


@dataclass(frozen=True)
class Pilot:
    """What a run needs to know beforehand.

    Arguments:
        betas: Inverse temperatures from 0 to 1.
        step_sizes: Inverse temperature between them -> step size of each row, `(B,)`.
    """

    betas: list[float]
    step_sizes: dict[float, Tensor]


def pilot_run(path: Path, settings: Annealing, tick: Callable[[], None]) -> Pilot:
    """Walk the path once with a few chains.

    Arguments:
        path: The densities.
        settings: Schedule and leapfrog steps.
        tick: Called at each temperature.

    Raises:
        ValueError: If the adaptive schedule would take more than 10,000 temperatures.
    """
    adaptive = settings.schedule == "adaptive"
    with torch.no_grad():
        eps = path.draw(PILOT_CHAINS_OF_ADAPTIVE if adaptive else PILOT_CHAINS)
    betas = [0.0] if adaptive else schedule_of(settings)
    step_size = torch.full((eps.shape[1],), FIRST_STEP_SIZE).to(eps)
    hmc, step_sizes, at, known = HMC(settings.num_leapfrog), {}, 0, path.known(eps)
    while betas[at] < 1:
        tick()
        if adaptive:
            betas.append(_next(betas[at], known[1] - known[0], settings.conditional_ess))
            _refuse_endless(betas, settings)
        at += 1
        if betas[at] == 1:
            break
        for _ in range(PILOT_MOVES):
            state = tempered(eps, known, betas[at])
            state, accept = hmc.walk(path.at(betas[at]), state, step_size)
            eps, known, step_size = state[0], state[3:], adapt(step_size, accept)
        step_sizes[betas[at]] = step_size
    return Pilot(betas, step_sizes)


def _next(beta: float, slope: Tensor, wanted: float) -> float:
    """The farthest temperature that keeps the conditional effective sample size, in the mean over rows."""

    def kept(step: float) -> float:
        log_w = step * slope
        log_share = 2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)
        return float(log_share.exp().nan_to_num(0.0).mean()) / len(slope)

    if kept(1 - beta) >= wanted:
        return 1.0
    low, high = 0.0, 1 - beta
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) >= wanted else (low, middle)
    return min(1.0, beta + max(low, 1 / MAX_TEMPERATURES))


def _refuse_endless(betas: list[float], settings: Annealing) -> None:
    if len(betas) > MAX_TEMPERATURES:
        raise ValueError(
            f"expected at most {MAX_TEMPERATURES} temperatures for conditional_ess={settings.conditional_ess}, got no end "
            f"(at {betas[-1]:.3f}); lower it, or start from a guide that is nearer"
        )
