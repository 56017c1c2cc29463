r"""How long does one training step take, beside a hand-written loop and `pyro.infer.SVI`?

MNIST-sized rows (784 bits), network 784-200-200-50 with ELU, batch 100, Adam; the four are timed in
turn, block by block, so that a drift of the machine's speed meets all alike. Prints milliseconds
per step (median and range over blocks) and ratios to the hand-written loop.
"""

import statistics
import sys
import time
from collections.abc import Callable

import pyro
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

import ppvae
from ppvae import objectives
from ppvae.nets import MLP
from ppvae.stories import load as load_story
from ppvae.story import local_params

SEED, BATCH_SIZE, STEPS, BLOCKS = 0, 100, 50, 9


class ByHand(nn.Module):
    """The same model and guide as one torch module."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MLP(784, 200, (200,), activate_last=True)
        self.loc, self.raw = nn.Linear(200, 50), nn.Linear(200, 50)
        self.decoder = MLP(50, 784)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        loc, scale = self.loc(h), F.softplus(self.raw(h) + 0.5413)
        eps = torch.randn_like(loc)
        z = loc + scale * eps
        log_x = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(-1)
        log_ratio = (-0.5 * z.square() + 0.5 * eps.square() + scale.log()).sum(-1)
        return -(log_x + log_ratio).mean()


def by_hand(x: Tensor) -> Callable[[], None]:
    model = ByHand()
    return _torch_step(model, lambda: model(x))


def ours(name: str, x: Tensor) -> Callable[[], None]:
    story = load_story("vae", {"x": x})
    guide = ppvae.guides.build("mean_field", story, x)
    loss_of = objectives.build(name, story, guide, x)
    step = _torch_step(loss_of, lambda: loss_of({"x": x}))

    def run() -> None:
        with local_params(story, guide, loss_of), pyro.validation_enabled(False):
            step()

    return run


def svi(x: Tensor) -> Callable[[], None]:
    pyro.clear_param_store()
    story = load_story("vae", {"x": x})
    guide = ppvae.guides.build("mean_field", story, x)
    loop = SVI(ppvae.observe(story), guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())

    def run() -> None:
        with pyro.validation_enabled(False):
            loop.step({"x": x})

    return run


def _torch_step(module: nn.Module, loss_of: Callable[[], Tensor]) -> Callable[[], None]:
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss_of().backward()
        optimiser.step()

    return step


def main(steps: int = STEPS, blocks: int = BLOCKS) -> dict[str, float]:
    """Median milliseconds per step of each."""
    torch.manual_seed(SEED)
    x = (torch.rand(BATCH_SIZE, 784) < 0.15).float()
    programs = {
        "hand-written": by_hand(x),
        "ppvae trace_elbo": ours("trace_elbo", x),
        "ppvae mean_field_elbo": ours("mean_field_elbo", x),
        "pyro SVI": svi(x),
    }
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for block in range(blocks + 1):
        for name, step in programs.items():
            start = time.perf_counter()
            for _ in range(steps):
                step()
            if block:  # the first block warms up
                taken[name].append(1000 * (time.perf_counter() - start) / steps)
    medians = {name: statistics.median(ms) for name, ms in taken.items()}
    print(f"threads {torch.get_num_threads()}, torch {torch.__version__}, seed {SEED}")
    for name, ms in taken.items():
        ratio = statistics.median(a / b for a, b in zip(ms, taken["hand-written"], strict=True))
        print(f"{name:<24}{medians[name]:7.2f} ms  ({min(ms):.2f}-{max(ms):.2f})  x{ratio:.2f}")
    return medians


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
