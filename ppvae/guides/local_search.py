r"""The ascent of every row's own ELBO over the row's own parameters."""

__all__ = ["climb"]

import math
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.estimate import Estimate
from ppvae.guides.flows import Pushforward
from ppvae.problem.weights import draw
from ppvae.story import LogJoint

# A window of steps is the unit in which gain is measured.
WINDOW, MAX_WINDOW, FLOW_WINDOW = 40, 160, 320
# The part of all steps by which each step size must have had its turn.
SHARES = (0.7, 0.9, 1.0)
DECAY = 0.3
LR_ROWS = 0.03
LR_NETWORKS = 0.005
PARTICLES, FLOW_PARTICLES = 8, 32
NUM_ERRORS = 3.0  # between a row's windows, in standard errors, that noise does not explain


def climb(
    story: nn.Module, local: Any, num_particles: int | None, max_steps: int, tolerance: float
) -> tuple[int, bool]:
    """Climb with Adam in steps of three sizes; arguments as for `optimize_local`.

    Returns:
        Steps taken, and whether every step size ran dry before its share of the steps was taken.
    """
    log_joint = LogJoint(story, local.batch)
    noisy = _is_noisy(local)
    if num_particles is None:
        num_particles = FLOW_PARTICLES if noisy else PARTICLES
    if num_particles < 2 and getattr(local, "discrete", None) is not None:
        raise ValueError(
            f"expected at least 2 particles where discrete sites are drawn, each held against the others; got {num_particles}"
        )
    rows, networks = list(local.rows.values()), list(local.networks.values())
    groups = [{"params": rows, "lr": LR_ROWS}, {"params": networks, "lr": LR_NETWORKS}]
    optimiser = torch.optim.Adam([g for g in groups if g["params"]])
    parameters, converged, step = rows + networks, True, 0
    progress = Progress(parameters, tolerance, FLOW_WINDOW if noisy else MAX_WINDOW)
    for share in SHARES:
        dry = False
        while not dry and step < share * max_steps:
            elbo = _elbo(log_joint, local, num_particles)
            gradients = torch.autograd.grad(-elbo.sum(), parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
            optimiser.step()
            step += 1
            dry = progress.has_plateaued(elbo.detach(), step >= share * max_steps)
        converged &= dry
        progress.rescue()
        for group in optimiser.param_groups:
            group["lr"] *= DECAY
    progress.settle()
    return step, converged


class Progress:
    """Sees whether steps of one size still gain, window by window, and doubles the window where noise hides it.

    Arguments:
        parameters: What is climbed with, `(B, *)` each.
        tolerance: Gain of a window, in nats per row, below which there is none.
        max_length: The longest window.
    """

    def __init__(self, parameters: list[Tensor], tolerance: float, max_length: int) -> None:
        self.parameters, self.tolerance, self.max_length = parameters, tolerance, max_length
        self.length, self.closed = WINDOW, True
        self.before = Estimate(torch.tensor(-math.inf), torch.tensor(0.0))
        self.best: Estimate | None = None

    def has_plateaued(self, elbo: Tensor, last: bool) -> bool:
        """Take in the ELBO of each row at one step, `(B,)`, in nats; whether a window has closed without gain.

        Arguments:
            elbo: The ELBO.
            last: Close the window whatever its length.
        """
        if self.closed:
            self.elbos: list[Tensor] = []
            self.sums = [torch.zeros_like(p) for p in self.parameters]
        self.elbos.append(elbo)
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            total.add_(parameter.detach())
        self.closed = last or len(self.elbos) == self.length
        return self.closed and self._closes_dry()

    def _closes_dry(self) -> bool:
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
            self.best, self.kept = self.now, averages
            return
        better = self.now.value > self.best.value
        self.best = Estimate(
            torch.where(better, self.now.value, self.best.value),
            torch.where(better, self.now.std_error, self.best.std_error),
        )
        for kept, average in zip(self.kept, averages, strict=True):
            kept[better] = average[better]

    def rescue(self) -> None:
        """Put rows that fell clearly below their best window, as few particles let them, back to it."""
        if self.best is None:
            return
        noise = torch.hypot(self.now.std_error, self.best.std_error)
        lost = ~(self.now.value >= self.best.value - NUM_ERRORS * noise)
        with torch.no_grad():
            for parameter, kept in zip(self.parameters, self.kept, strict=True):
                parameter[lost] = kept[lost]

    def settle(self) -> None:
        """Put the average over the last window in the parameters' place, and rescue."""
        with torch.no_grad():
            for total, parameter in zip(self.sums, self.parameters, strict=True):
                parameter.copy_(total / len(self.elbos))
        self.rescue()


def _elbo(log_joint: LogJoint, local: Any, num_particles: int) -> Tensor:
    """ELBO of each row, `(B,)`, in nats, with a gradient of low variance.

    The score of q, zero in expectation, is left out of the gradient where q is cheap to score at detached
    parameters: the noise then vanishes as q approaches the posterior (sticking the landing, G. Roeder, Y. Wu,
    D. Duvenaud 2017). A flow would need its inverse for that and keeps the plain gradient.
    """
    if getattr(local, "discrete", None) is not None:
        return _elbo_with_discrete(log_joint, local, num_particles)
    parameters = local.parameters_of(local.batch)
    q = local.distribution(parameters)
    u = q.rsample((num_particles,))
    if _is_flow(local, q):
        log_q = q.log_prob(u)
    else:
        log_q = local.distribution({k: v.detach() for k, v in parameters.items()}).log_prob(u)
    latents, log_det = local.flat.unflatten(u)
    return (log_joint(latents) + log_det - log_q).mean(0)


def _is_noisy(local: Any) -> bool:
    """Whether the gradient keeps the score of q: it does for flows."""
    with torch.no_grad():
        return local.flat.dim > 0 and _is_flow(local, local.posterior(local.batch))


def _is_flow(local: Any, q: Any) -> bool:
    """Whether q is cheap to draw from and costly to score."""
    return bool(local.networks) or isinstance(q, Pushforward)


def _elbo_with_discrete(log_joint: LogJoint, local: Any, num_particles: int) -> Tensor:
    """As `_elbo` for a guide that draws discrete sites: the score function, each particle held against the others.

    W. Kool, H. van Hoof, M. Welling (2019). Buy 4 REINFORCE samples, get a baseline for free!
    """
    drawn = draw(local, local.batch, num_particles, log_joint.sites)
    elbo = log_joint(drawn.values) - drawn.local
    above = (elbo - elbo.mean(0)).detach() * num_particles / (num_particles - 1)
    score_function = above * sum(drawn.by_site[name] for name in local.discrete.sites)
    return (elbo + score_function - score_function.detach()).mean(0)
