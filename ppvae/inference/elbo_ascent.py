r"""Ascent of every row's own ELBO over the row's own parameters."""

__all__ = ["Plateau", "maximize_elbo"]

import math
from typing import Any

import torch
from torch import Tensor

from ppvae.estimate import Estimate
from ppvae.guides.pushforward import Pushforward
from ppvae.problem import Problem

# Gain is measured over windows of steps.
WINDOW, MAX_WINDOW, FLOW_WINDOW = 40, 160, 320
# Share of all steps after which each learning rate must have been tried.
SHARES = (0.7, 0.9, 1.0)
DECAY = 0.3
LR_ROWS = 0.03
LR_NETWORKS = 0.005
PARTICLES, FLOW_PARTICLES = 8, 32
NUM_ERRORS = 3.0  # between a row's windows, in standard errors, that noise does not explain


def maximize_elbo(
    problem: Problem, num_particles: int | None, max_steps: int, tolerance: float
) -> tuple[int, bool]:
    """Adam at three learning rates, each until its gain plateaus.

    Arguments:
        problem: Rows with a guide that has parameters for each, which are changed in place.
        num_particles: As for `optimize_local`.
        max_steps: As for `optimize_local`.
        tolerance: As for `optimize_local`.

    Returns:
        Steps taken, and whether every learning rate reached its plateau before its share of the
        steps was taken.
    """
    local: Any = problem.guide
    noisy = _is_noisy(local)
    if num_particles is None:
        num_particles = FLOW_PARTICLES if noisy else PARTICLES
    if num_particles < 2 and getattr(local, "discrete", None) is not None:
        raise ValueError(
            "expected at least 2 particles where discrete sites are drawn, each held against the "
            f"others; got {num_particles}"
        )
    rows, networks = list(local.rows.values()), list(local.networks.values())
    groups = [{"params": rows, "lr": LR_ROWS}, {"params": networks, "lr": LR_NETWORKS}]
    optimizer = torch.optim.Adam([g for g in groups if g["params"]])
    parameters, converged, step = rows + networks, True, 0
    plateau = Plateau(parameters, tolerance, FLOW_WINDOW if noisy else MAX_WINDOW)
    for share in SHARES:
        reached = False
        while not reached and step < share * max_steps:
            elbo = _elbo(problem, num_particles)
            gradients = torch.autograd.grad(-elbo.sum(), parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
            optimizer.step()
            step += 1
            reached = plateau.is_reached(elbo.detach(), step >= share * max_steps)
        converged &= reached
        plateau.restore_best()
        for group in optimizer.param_groups:
            group["lr"] *= DECAY
    plateau.average_last_window()
    return step, converged


class Plateau:
    """Whether steps at one learning rate still gain, window by window; the window doubles where
    noise hides a gain.

    Arguments:
        parameters: What is optimised, `(B, *)` each.
        tolerance: Gain of a window, in nats per row, below which there is none.
        max_length: The longest window.
    """

    def __init__(self, parameters: list[Tensor], tolerance: float, max_length: int) -> None:
        self.parameters, self.tolerance, self.max_length = parameters, tolerance, max_length
        self.length, self.is_complete = WINDOW, True
        self.before = Estimate(torch.tensor(-math.inf), torch.tensor(0.0))
        self.best: Estimate | None = None

    def is_reached(self, elbo: Tensor, last: bool) -> bool:
        """Add one step; whether it completes a window without gain.

        Arguments:
            elbo: The ELBO of each row, `(B,)`, in nats.
            last: Complete the window whatever its length.
        """
        if self.is_complete:
            self.elbos: list[Tensor] = []
            self.sums = [torch.zeros_like(p) for p in self.parameters]
        self.elbos.append(elbo)
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            total.add_(parameter.detach())
        self.is_complete = last or len(self.elbos) == self.length
        return self.is_complete and self._has_no_gain()

    def _has_no_gain(self) -> bool:
        elbos = torch.stack(self.elbos)
        self._keep_best(Estimate.of_draws(elbos))
        now = Estimate.of_draws(elbos.mean(1))
        gain = float(now.value - self.before.value)
        noise = math.hypot(float(now.std_error), float(self.before.std_error))
        hidden = gain < noise and noise > self.tolerance and self.length < self.max_length
        self.before = now
        self.length *= 1 + hidden
        return gain < self.tolerance and not hidden

    def _keep_best(self, now: Estimate) -> None:
        """The best window of each row so far, and the parameters' average over it."""
        self.now = Estimate(now.value.nan_to_num(-math.inf), now.std_error)
        averages = [total / len(self.elbos) for total in self.sums]
        if self.best is None:
            self.best, self.best_parameters = self.now, averages
            return
        better = self.now.value > self.best.value
        self.best = Estimate(
            torch.where(better, self.now.value, self.best.value),
            torch.where(better, self.now.std_error, self.best.std_error),
        )
        for best, average in zip(self.best_parameters, averages, strict=True):
            best[better] = average[better]

    def restore_best(self) -> None:
        """Put rows that fell clearly below their best window, as few particles let them, back to
        it.
        """
        if self.best is None:
            return
        noise = torch.hypot(self.now.std_error, self.best.std_error)
        lost = ~(self.now.value >= self.best.value - NUM_ERRORS * noise)
        with torch.no_grad():
            for parameter, best in zip(self.parameters, self.best_parameters, strict=True):
                parameter[lost] = best[lost]

    def average_last_window(self) -> None:
        """Set the parameters to their average over the last window, then restore rows that fell."""
        with torch.no_grad():
            for total, parameter in zip(self.sums, self.parameters, strict=True):
                parameter.copy_(total / len(self.elbos))
        self.restore_best()


def _elbo(problem: Problem, num_particles: int) -> Tensor:
    """ELBO of each row, `(B,)`, in nats, with a gradient of low variance.

    The score of q, zero in expectation, is left out of the gradient where q is cheap to score at
    detached
    parameters: the noise then vanishes as q approaches the posterior (sticking the landing, G.
    Roeder, Y. Wu, D. Duvenaud 2017). A flow would need its inverse for that and keeps the plain
    gradient.
    """
    local: Any = problem.guide
    if getattr(local, "discrete", None) is not None:
        return _elbo_with_discrete(problem, num_particles)
    parameters = local.parameters_of(local.batch)
    q = local.distribution(parameters)
    u = q.rsample((num_particles,))
    if _is_flow(local, q):
        log_q = q.log_prob(u)
    else:
        log_q = local.distribution({k: v.detach() for k, v in parameters.items()}).log_prob(u)
    return (problem.unconstrained.log_joint(u) - log_q).mean(0)


def _is_noisy(local: Any) -> bool:
    """Whether the gradient keeps the score of q: it does for flows."""
    with torch.no_grad():
        return local.flat.dim > 0 and _is_flow(local, local.posterior(local.batch))


def _is_flow(local: Any, q: Any) -> bool:
    """Whether q is cheap to draw from and costly to score."""
    return bool(local.networks) or isinstance(q, Pushforward)


def _elbo_with_discrete(problem: Problem, num_particles: int) -> Tensor:
    """As `_elbo` for a guide that draws discrete sites: the score function, each particle held
    against the others.

    W. Kool, H. van Hoof, M. Welling (2019). Buy 4 REINFORCE samples, get a baseline for free!
    """
    local: Any = problem.guide
    drawn = problem.draw(num_particles)
    elbo = problem.log_joint(drawn.values) - drawn.local
    above = (elbo - elbo.mean(0)).detach() * num_particles / (num_particles - 1)
    score_function = above * sum(drawn.by_site[name] for name in local.discrete.sites)
    return (elbo + score_function - score_function.detach()).mean(0)
