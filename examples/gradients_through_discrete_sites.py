r"""How far off, and how noisy, is the gradient of a discrete guide? Score function against
Concrete, at several temperatures.

One story with a site of ten letters, few enough to sum over, so that the exact gradient of the ELBO
is known. For each estimator the gradient of one batch by all the guide's parameters is drawn many
times, with one particle.

    python examples/gradients_through_discrete_sites.py
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import ppvae
from ppvae import objectives


class Letters(PyroModule):
    """One of ten letters decides the mean of three numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(10, 3)
        self.register_buffer("even", torch.zeros(10))

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            letter = pyro.sample("letter", dist.OneHotCategorical(logits=self.even))  # (n, 10)
            pyro.sample("x", dist.Normal(2 * self.decoder(letter), 0.5).to_event(1))  # (n, 3)


def exact_gradient(story: nn.Module, guide: nn.Module, x: Tensor) -> Tensor:
    """The gradient of the ELBO per row with the sum over the letters taken, one long vector."""
    log_q = guide.parameters_of({"x": x})["logits"].log_softmax(-1).T  # (10, B)
    every = torch.eye(10).unsqueeze(1).expand(10, len(x), 10)
    log_p = ppvae.log_joint(story, {"x": x}, {"letter": every})
    elbo = (log_q.exp() * (log_p - log_q)).sum(0).mean()
    return flat_gradient(elbo, guide)


def flat_gradient(value: Tensor, guide: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(guide.parameters()))])


def main(num_draws: int = 1000, num_rows: int = 20, seed: int = 0) -> dict[str, tuple[float, ...]]:
    """Measure and print; returns estimator -> (bias, its standard error, noise of one draw), as
    shares of the exact gradient's length."""
    torch.manual_seed(seed)
    story = Letters().requires_grad_(False)
    x = ppvae.simulate(story, num_rows, seed=seed)["x"]
    plain = ppvae.guides.build("categorical", story, x, hidden=(16,))
    truth = exact_gradient(story, plain, x)
    estimators: dict[str, objectives.Objective] = {
        f"score function, baseline {b}": objectives.build(
            "score_function", story, plain, x, baseline=b
        )
        for b in ("none", "average")
    }
    for straight_through in (False, True):
        for temperature in (1.0, 0.5, 0.1):
            options = {"temperature": temperature, "straight_through": straight_through}
            options["final_temperature"] = temperature
            guide = ppvae.guides.build("concrete", story, x, hidden=(16,), **options)
            guide.load_state_dict(plain.state_dict(), strict=False)
            kind = "straight-through" if straight_through else "Concrete"
            name = f"{kind}, temperature {temperature}"
            estimators[name] = objectives.build("trace_elbo", story, guide, x)
    found = {}
    for name, objective in estimators.items():
        objective.guide.train()
        with pyro.settings.context(module_local_params=True):
            draws = torch.stack(
                [-flat_gradient(objective({"x": x}), objective.guide) for _ in range(num_draws)]
            )
        noise = draws.var(0).sum().sqrt()
        # The squared length of a mean of draws exceeds that of its expectation by its variance.
        excess = (draws.mean(0) - truth).square().sum() - noise**2 / num_draws
        bias = excess.clamp(min=0).sqrt()
        size = truth.norm()
        found[name] = tuple(float(v / size) for v in (bias, noise / num_draws**0.5, noise))
    table = Table(
        "estimator", "bias", "± s.e.", "noise of one draw", title="shares of the gradient's length"
    )
    for name, row in found.items():
        table.add_row(name, *(f"{v:.3f}" for v in row))
    Console().print(table)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
