"""What several processes under torchrun are asked to do: `distributed_job.py NAMES RESULT`; each
writes `RESULT.RANK`.
"""

import os
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, TensorDataset

import ppvae
from ppvae.config import TrainConfig
from ppvae.stories import load as load_story
from ppvae.training import distributed
from ppvae.training.train_step import TrainStep

NUM_ROWS = 21  # parts of 10 and 11
DRAWS = (torch.bernoulli, Tensor.normal_, Tensor.uniform_)


class RowNoise(TorchFunctionMode):
    """Draws for a part of a batch are those that its rows have in a draw for the whole batch."""

    def __init__(self, total: int) -> None:
        super().__init__()
        rank, size = distributed.rank(), distributed.world_size()
        self.first, self.total = total * rank // size, total
        self.size = total * (rank + 1) // size - self.first

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dims = [d for d, n in enumerate(args[0].shape) if n == self.size] if func in DRAWS else []
        if not dims:
            return func(*args, **kwargs)

        def padded(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            shape = [*value.shape]
            shape[dims[0]] = self.total
            whole = value.narrow(dims[0], 0, 1).expand(shape).clone()
            whole.narrow(dims[0], self.first, self.size).copy_(value)
            return whole

        drawn = func(*map(padded, args), **kwargs).narrow(dims[0], self.first, self.size)
        return drawn.clone() if func is torch.bernoulli else args[0].copy_(drawn)


def digits(seed: int = 0) -> tuple[nn.Module, nn.Module, Any]:
    torch.manual_seed(seed)
    rows = ppvae.data.load("digits").head(61)
    story = load_story("vae", rows.batch(), latent_dim=3)
    return story, ppvae.guides.build("mean_field", story, rows, hidden=(16,)), rows


def trained(story: nn.Module, guide: nn.Module, rows: Any, **options: Any) -> dict[str, Tensor]:
    given = {"epochs": 2, "batch_size": 20, "lr": 0.01, "progress": False, **options}
    history = ppvae.fit(story, guide, rows, **given)
    weights = {**story.state_dict(), **{f"guide.{k}": v for k, v in guide.state_dict().items()}}
    numbers = {n: torch.tensor(history.column(n)) for n in ("loss", "elbo", "gradient_norm")}
    return weights | numbers


def gradients() -> dict[str, Any]:
    """By objective: gradient over the processes, and gradient of the whole batch with the same
    draws.
    """
    found = {}
    for name in ppvae.objectives.OBJECTIVES:
        story, guide, rows = digits()
        story.double(), guide.double()
        batch = {"x": rows.tensors["x"][:NUM_ROWS].double()}
        particles = 1 if name.endswith("_elbo") else 3
        loss_of = ppvae.objectives.build(name, story, guide, batch, num_particles=particles)
        loss_of = loss_of.double()
        whole = deepcopy(loss_of)
        torch.manual_seed(1)
        loss = whole(batch, 1.0)
        loss.backward()
        step = TrainStep(loss_of, TrainConfig(clip_factor=None))
        torch.manual_seed(1)
        with RowNoise(NUM_ROWS):
            together, _ = step.gradient(batch, 1.0)
        expected = {n: p.grad for n, p in whole.named_parameters() if p.grad is not None}
        got = {n: p.grad for n, p in loss_of.named_parameters() if p.grad is not None}
        found[name] = {
            "whole": expected,
            "together": got,
            "losses": (float(loss.detach()), together),
        }
    return found


def unlike_weights() -> dict[str, Any]:
    """Batches with one row leave a process without any; weights begin otherwise in each process."""
    story, guide, rows = digits(distributed.rank())
    story.register_buffer("mask", torch.rand(5) < 0.5)
    story.register_buffer("number", torch.randint(99, (), dtype=torch.int16))
    options = {"val": rows.head(33), "ema_decay": 0.9, "accumulate": 2, "clip_norm": 3.0}
    return trained(story, guide, rows, **options)


def baseline() -> dict[str, Any]:
    """A baseline's running mean is a buffer that every process changes."""
    return trained(*digits(), objective="score_function", batch_size=30)


def stream() -> dict[str, Any]:
    """A loader that shuffles is read by each process for itself, in one order."""
    story, guide, rows = digits()
    loader = DataLoader(TensorDataset(rows.tensors["x"]), batch_size=7, shuffle=True)
    return trained(story, guide, loader)


def curve(seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(0)
    rows = ppvae.data.load("digits").head(400)
    story = load_story("vae", rows.batch(), latent_dim=3)
    guide = ppvae.guides.build("mean_field", story, rows, hidden=(32,))
    options = {"epochs": 6, "batch_size": 50, "lr": 3e-3, "seed": seed}
    return trained(story, guide, rows, val=ppvae.data.load("digits", split="valid"), **options)


def resumed() -> dict[str, Any]:
    """Two epochs in one go, and one epoch that goes on to two."""
    run = Path(sys.argv[2]).parent / "run"
    options = {"schedule": "constant", "objective": "score_function"}
    whole = trained(*digits(), **options)
    trained(*digits(), run_dir=run, epochs=1, **options)
    return {"whole": whole, "resumed": trained(*digits(), run_dir=run, resume=True, **options)}


def errors() -> dict[str, Any]:
    """What each process says of settings and rows of its own, a folder in use, and rows that only
    the last one meets.
    """
    story, guide, rows = digits()
    x, rank = rows.batch()["x"], distributed.rank()
    used = Path(sys.argv[2]).parent / "used"
    used.mkdir(exist_ok=True)
    (used / "notes.txt").write_text("mine")
    real = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    real[15:] = 1e30  # a density of minus infinity
    gaussian = load_story("factor_analysis", {"x": real})
    theirs = ppvae.guides.build("mean_field", gaussian, real[:15])
    attempts: dict[str, Callable[[], Any]] = {
        "seed": lambda: trained(story, guide, rows, seed=rank),
        "rows": lambda: trained(story, guide, x.roll(rank, 0)),
        "folder": lambda: trained(*digits(), run_dir=used),
        "nonfinite": lambda: trained(gaussian, theirs, real, batch_size=20),
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except ValueError as error:
            found[name] = str(error)
    return found


def endless() -> dict[str, Any]:
    """Trains until something ends it, and writes what that was."""
    result = Path(sys.argv[2])
    Path(f"{result}.pid{distributed.rank()}").write_text(str(os.getpid()))
    options = {"epochs": 10**6, "schedule": "constant", "checkpoint_every": 1000.0}
    try:
        return trained(*digits(), run_dir=result.parent / "run", **options)
    except BaseException as error:
        Path(f"{result}.{distributed.rank()}").write_text(f"{type(error).__name__}: {error}")
        raise


JOBS = (gradients, unlike_weights, baseline, stream, curve, resumed, errors, endless)

if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs: dict[str, Callable[[], Any]] = {job.__name__: job for job in JOBS}
    with distributed.process_group():
        found = {name: jobs[name]() for name in sys.argv[1].split(",")}
        torch.save(found, f"{sys.argv[2]}.{distributed.rank()}")
