r"""The pilot run of annealing: it tunes step sizes and, if asked, places the temperatures; its
chains are thrown away.
"""

__all__ = ["Pilot", "pilot_run", "temperatures"]

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.config import Annealing
from ppvae.inference.annealing_path import AnnealingPath
from ppvae.inference.hmc import adapt_step_size, transition

NUM_CHAINS = 4
# A schedule is read off the pilot's weights, which takes more chains than step sizes do.
NUM_CHAINS_ADAPTIVE = 16
TRANSITIONS = 2
FIRST_STEP_SIZE = 0.5
MAX_TEMPERATURES = 10_000
BISECTIONS = 30
# Last step of the geometric schedule over its first. From the prior the weights change fast at
# first, and 100 served better than 10, 1000 and equal steps; from a fitted guide they change
# evenly, and equal steps served best (MNIST network, 50 simulated rows: 8.2 of 10 chains effective
# against 7.6 and 6.0 with growth 10 and 1000).
GEOMETRIC_GROWTH = 100.0
SIGMOID_REACH = 4.0


@dataclass(frozen=True)
class Pilot:
    """What a run needs to know beforehand.

    Arguments:
        betas: Inverse temperatures from 0 to 1.
        step_sizes: Inverse temperature between them -> step size of each row, `(B,)`.
    """

    betas: list[float]
    step_sizes: dict[float, Tensor]


def temperatures(settings: Annealing) -> list[float]:
    """Inverse temperatures from 0 to 1, `num_temperatures` steps; all schedules but `adaptive`."""
    num = settings.num_temperatures
    even = [t / num for t in range(num + 1)]
    schedule = settings.temperature_schedule
    if schedule == "auto":
        schedule = "linear" if settings.start == "guide" else "geometric"
    if schedule == "linear":
        return even
    if schedule == "sigmoid":
        bent = [math.tanh(SIGMOID_REACH / 2 * (2 * t - 1)) for t in even]
        return [(b - bent[0]) / (bent[-1] - bent[0]) for b in bent]
    growth = math.log(GEOMETRIC_GROWTH)
    return [math.expm1(growth * t) / math.expm1(growth) for t in even]


def pilot_run(path: AnnealingPath, settings: Annealing, tick: Callable[[], None]) -> Pilot:
    """Follow the path once with a few chains.

    Arguments:
        path: The densities.
        settings: Schedule and leapfrog steps.
        tick: Called at each temperature.

    Raises:
        ValueError: If the adaptive schedule would take more than 10,000 temperatures.
    """
    adaptive = settings.temperature_schedule == "adaptive"
    with torch.no_grad():
        eps = path.draw(NUM_CHAINS_ADAPTIVE if adaptive else NUM_CHAINS)
    betas = [0.0] if adaptive else temperatures(settings)
    step_size = torch.full((eps.shape[1],), FIRST_STEP_SIZE).to(eps)
    step_sizes, index, ends = {}, 0, path.ends(eps)
    while betas[index] < 1:
        tick()
        if adaptive:
            betas.append(_next_beta(betas[index], ends[1] - ends[0], settings.conditional_ess))
            _check_length(betas, settings)
        index += 1
        beta = betas[index]
        if beta == 1:
            break
        for _ in range(TRANSITIONS):
            state = path.state(eps, ends, beta)
            state, acceptance, _ = transition(
                path.evaluate_at(beta), state, step_size, settings.num_leapfrog
            )
            eps, ends = state.position, state.parts
            step_size = adapt_step_size(step_size, acceptance)
        step_sizes[beta] = step_size
    return Pilot(betas, step_sizes)


def _next_beta(beta: float, slope: Tensor, wanted: float) -> float:
    """The farthest temperature that keeps the conditional effective sample size, in the mean over
    rows.
    """

    def effective_share(step: float) -> float:
        log_w = step * slope
        log_share = 2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)
        return float(log_share.exp().nan_to_num(0.0).mean()) / len(slope)

    if effective_share(1 - beta) >= wanted:
        return 1.0
    low, high = 0.0, 1 - beta
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if effective_share(middle) >= wanted else (low, middle)
    return min(1.0, beta + max(low, 1 / MAX_TEMPERATURES))


def _check_length(betas: list[float], settings: Annealing) -> None:
    if len(betas) > MAX_TEMPERATURES:
        raise ValueError(
            f"expected at most {MAX_TEMPERATURES} temperatures for "
            f"conditional_ess={settings.conditional_ess}, got no end (at {betas[-1]:.3f}); lower "
            "it, or start from a guide that is nearer"
        )
