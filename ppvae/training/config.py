r"""The settings of a training as one record, which refuses what cannot work."""

__all__ = ["OPTIMIZERS", "PRECISIONS", "SCHEDULES", "TrainConfig", "resolve_device"]

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import torch

from ppvae import objectives, ranks
from ppvae.training.bfloat16 import check_bfloat16

# Factor on the step size as training goes from 0 to 1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "tail": lambda done: min(1.0, 4 * (1 - done)),
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}

# One for all parameters, fused where torch can, with torch's own settings beside the step size.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "sgd": partial(torch.optim.SGD, fused=True),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": partial(torch.optim.Adagrad, fused=True),
}

# Those that a report names although nobody asked for them.
USUAL = ("objective", "epochs", "batch_size", "optimizer", "lr", "seed", "patience")

# Of the weights; None is the story's own.
PRECISIONS: dict[str, torch.dtype | None] = {
    "auto": None,
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.float32,
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; each as in `ppvae.fit`.

    Raises:
        ValueError: If one cannot work: which, what was expected and what came.
    """

    objective: str = "trace_elbo"
    objective_options: Mapping[str, Any] | None = None
    num_particles: int = 1
    epochs: int = 100
    batch_size: int = 100
    accumulate: int = 1
    optimizer: str = "adam"
    lr: float = 1e-3
    schedule: str = "tail"
    clip_norm: float | None = None
    average: float = 0.0
    kl_warmup: int = 0
    patience: int | None = None
    max_skips: int = 0
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        objectives.check_request(self.objective, self.objective_options or {})
        _check_one_of("optimizer", self.optimizer, OPTIMIZERS)
        _check_one_of("schedule", self.schedule, SCHEDULES)
        _check_one_of("precision", self.precision, PRECISIONS)
        for name in ("epochs", "batch_size", "accumulate", "num_particles", "patience"):
            self._check_whole(name, 1)
        for name in ("kl_warmup", "max_skips", "seed"):
            self._check_whole(name, 0 if name != "seed" else None)
        for name in ("lr", "clip_norm"):
            value = getattr(self, name)
            if not ((value is None and name == "clip_norm") or (_is_number(value) and value > 0)):
                raise ValueError(f"expected a positive {name}, got {value!r}")
        if not (_is_number(self.average) and 0 <= self.average < 1):
            raise ValueError(f"expected average from 0 (none) to below 1, got {self.average!r}")
        device = resolve_device(self.device)
        if self.precision == "bfloat16":
            check_bfloat16(device)

    def _check_whole(self, name: str, least: int | None) -> None:
        value = getattr(self, name)
        if value is None and name == "patience":
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"expected a whole number as {name}, got {value!r}")
        if least is not None and value < least:
            raise ValueError(f"expected {name} of at least {least}, got {value}")

    @property
    def loss_options(self) -> dict[str, Any]:
        """Options of the objective, particles among them."""
        return {"num_particles": self.num_particles, **(self.objective_options or {})}

    def options(self) -> dict[str, Any]:
        """The arguments of `fit` that they are."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def shown(self) -> dict[str, Any]:
        """What a report names: the usual ones, and others where they are not what they are by default."""
        plain = {field.name: field.default for field in fields(self)}
        return {k: v for k, v in self.options().items() if k in USUAL or v != plain[k]}

    def told(self) -> dict[str, Any]:
        """What `config.json` keeps, and a resumed run must repeat: all but where it runs, and how often it may fail."""
        left_out = ("device", "max_skips", "num_particles", "objective", "objective_options")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def resolve_device(device: str) -> torch.device:
    """The device that a name means; `auto` is CUDA where there is one, the process's own among several."""
    if device == "auto":
        return ranks.own_device()
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"expected a device such as auto, cpu or cuda, got '{device}'") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "expected a CUDA device for device='cuda', got a machine or torch build without CUDA; "
            "use device='cpu'"
        )
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_one_of(name: str, value: str, known: Mapping[str, Any]) -> None:
    if value not in known:
        raise ValueError(f"expected {name} among {', '.join(known)}; got '{value}'")
