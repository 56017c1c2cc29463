r"""Settings of training and of measuring: frozen records that print, go to JSON and back, and
refuse unknown names.

The command line, config files and the keyword arguments of `fit`, `gaps` and `compare` are all made
from these fields, so that an option has one name and one default everywhere. This file imports
nothing heavy.
"""

__all__ = [
    "SCHEDULES",
    "Annealing",
    "Config",
    "EvidenceConfig",
    "TrainConfig",
]

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every record of settings can do."""

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Raises:
            ValueError: If a name is no field; the known ones are listed.
        """
        self._check_names(changes)
        return replace(self, **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record that `to_dict` gave; absent fields keep their defaults.

        Raises:
            ValueError: If a name is no field; the known ones are listed.
        """
        cls._check_names(values)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Field name -> value, nested records as dicts."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The record that `to_json` gave."""
        return cls.from_dict(json.loads(text))

    def to_json(self) -> str:
        """The fields as JSON; an infinite number is written as `Infinity`."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def _check_names(cls, values: Mapping[str, Any]) -> None:
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                raise ValueError(
                    f"{cls.__name__}: expected fields among {', '.join(known)}; got '{name}'{hint}"
                )


def option(default: Any, help: str) -> Any:
    """A field with the help text that the command line shows."""
    return field(default=default, metadata={"help": help})


# Learning-rate schedules, and what each does.
SCHEDULES: dict[str, str] = {
    "constant_then_linear": "constant, then linear to 0 over the last quarter of the epochs",
    "cosine": "half a cosine from the start value to 0",
    "constant": "the start value throughout",
}
OPTIMIZERS = ("adam", "sgd", "rmsprop", "adagrad")
PRECISIONS = ("auto", "float32", "float64", "bfloat16")


# How a training step is run, and what each does.
COMPILE_MODES: dict[str, str] = {
    "auto": "replay for long trainings of rows in memory, else off",
    "off": "as Pyro and autograd run it",
    "replay": "its operators, captured once for each batch shape, one by one",
    "inductor": "its operators, compiled; needs a C++ compiler",
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How to train.

    Raises:
        ValueError: If a field cannot work: which, what was expected and what came.
    """

    objective: str = option("trace_elbo", "Training loss, see `ppvae list objectives`.")
    objective_options: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Further arguments of the objective, such as beta or alpha."},
    )
    num_particles: int = option(1, "Particles of each row and step.")
    epochs: int = option(100, "Passes over the training rows, at most.")
    batch_size: int = option(100, "Rows of a step, over all processes.")
    accumulate: int = option(1, "Parts of a batch that are run one after the other to save memory.")
    optimizer: str = option("adam", f"One of {', '.join(OPTIMIZERS)}.")
    lr: float = option(1e-3, "Learning rate.")
    schedule: str = option(
        "constant_then_linear", f"Learning-rate schedule: {', '.join(SCHEDULES)}."
    )
    clip_norm: float | None = option(None, "Largest norm of the gradient; None clips nothing.")
    clip_factor: float | None = option(
        10.0,
        "Clip a gradient that is longer than this many times its running mean; None switches it "
        "off.",
    )
    ema_decay: float = option(
        0.0,
        "Decay of an exponential moving average of the weights, which is then kept; 0 for none.",
    )
    kl_warmup: int = option(0, "Epochs over which the weight of the KL terms grows linearly to 1.")
    patience: int | None = option(
        None, "Stop after so many epochs without a better validation ELBO."
    )
    max_skips: int = option(0, "Steps in all that may be skipped because a loss is not finite.")
    seed: int = option(0, "Seed of the order of the rows and of all draws.")
    device: str = option("auto", "auto (CUDA where there is one), cpu, cuda, cuda:1, ...")
    precision: str = option("auto", f"Of the weights: {', '.join(PRECISIONS)}.")
    compile: str = option(
        "auto", f"How a step is run: {', '.join(COMPILE_MODES)}; auto is replay where it pays."
    )
    checkpoint_every: float = option(60.0, "Seconds between checkpoints within an epoch.")
    progress: bool = option(True, "Show progress.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective_options", dict(self.objective_options or {}))
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("compile", self.compile, COMPILE_MODES)
        for name in ("epochs", "batch_size", "accumulate", "num_particles"):
            _check_whole(name, getattr(self, name), 1)
        for name in ("kl_warmup", "max_skips"):
            _check_whole(name, getattr(self, name), 0)
        _check_whole("seed", self.seed)
        if self.patience is not None:
            _check_whole("patience", self.patience, 1)
        _check_positive("lr", self.lr)
        for name in ("clip_norm", "clip_factor"):
            if getattr(self, name) is not None:
                _check_positive(name, getattr(self, name))
        if not (_is_number(self.ema_decay) and 0 <= self.ema_decay < 1):
            raise ValueError(f"expected ema_decay from 0 (none) to below 1, got {self.ema_decay!r}")
        if not (_is_number(self.checkpoint_every) and self.checkpoint_every >= 0):
            raise ValueError(
                f"expected checkpoint_every of at least 0 seconds, got {self.checkpoint_every!r}"
            )


ANNEALING_STARTS: dict[str, str] = {
    "guide": "from q: the nearer it is to the posterior, the fewer temperatures",
    "prior": "from the story's own prior: needs no guide, and many temperatures",
}
ANNEALING_SCHEDULES: dict[str, str] = {
    "auto": "linear from the guide, geometric from the prior",
    "geometric": "steps that grow by a constant factor",
    "linear": "equal steps",
    "sigmoid": "small steps at both ends",
    "adaptive": "as far as the conditional effective sample size of a pilot run allows, then fixed",
}


@dataclass(frozen=True, kw_only=True)
class Annealing(Config):
    r"""Settings of annealed importance sampling along :math:`\pi_\beta \propto \pi_0^{1-\beta} p(x,
    \cdot)^\beta`.

    Raises:
        ValueError: If a field is unknown or out of range.

    Source:
        R. M. Neal (2001). Annealed importance sampling.
        Y. Zhou, A. M. Johansen, J. A. D. Aston (2016). Toward automatic model comparison: an
        adaptive sequential Monte Carlo approach.
    """

    num_chains: int = option(16, "Chains of each row.")
    num_temperatures: int = option(
        50, "Steps of the schedule; `adaptive` finds their number itself."
    )
    num_leapfrog: int = option(5, "Leapfrog steps of a transition.")
    start: str = option("guide", f"Where annealing starts: {', '.join(ANNEALING_STARTS)}.")
    temperature_schedule: str = option("auto", f"One of {', '.join(ANNEALING_SCHEDULES)}.")
    conditional_ess: float = option(
        0.99,
        "Share of the chains that a step of `adaptive` keeps effective, in the mean over rows.",
    )
    resample: bool = option(
        False, "Resample the chains of a row when fewer than half are effective."
    )

    def __post_init__(self) -> None:
        for name in ("num_chains", "num_temperatures", "num_leapfrog"):
            _check_whole(name, getattr(self, name), 1)
        _check_choice("start", self.start, ANNEALING_STARTS)
        _check_choice("temperature_schedule", self.temperature_schedule, ANNEALING_SCHEDULES)
        if not 0 < self.conditional_ess < 1:
            raise ValueError(
                f"expected conditional_ess between 0 and 1, got {self.conditional_ess}"
            )


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig(Config):
    """How log p(x), q* and the gaps are measured.

    Raises:
        ValueError: If a field cannot work: which, what was expected and what came.
    """

    method: str = option(
        "auto", "auto (exact where it is known, else best), best, exact, iwae, ais or quadrature."
    )
    num_particles: int = option(1000, "Particles of importance sampling and k-hat.")
    elbo_particles: int = option(500, "Particles of the ELBOs of q and q*.")
    annealing: Annealing = field(
        default_factory=Annealing, metadata={"help": "Settings of annealed importance sampling."}
    )
    error: str = option("delta", "Standard error of importance sampling: delta or jackknife.")
    local_steps: int = option(
        2000, "Steps that the search for q* may take; 0 takes the guide as it is."
    )
    num_simulated: int = option(
        50, "Simulated rows on which bidirectional Monte Carlo certifies the annealing; 0 for none."
    )
    rows_per_piece: int = option(100, "Rows that are measured at a time, with a seed of their own.")
    precision: str = option("auto", "auto (as trained), float32 or float64.")
    seed: int = option(0, "Seed of all draws.")
    progress: bool = option(False, "Show progress.")

    def __post_init__(self) -> None:
        if isinstance(self.annealing, Mapping):
            object.__setattr__(self, "annealing", Annealing.from_dict(self.annealing))
        _check_choice("error", self.error, ("delta", "jackknife"))
        _check_choice("precision", self.precision, ("auto", "float32", "float64"))
        for name in ("num_particles", "elbo_particles", "rows_per_piece"):
            _check_whole(name, getattr(self, name), 1)
        for name in ("local_steps", "num_simulated"):
            _check_whole(name, getattr(self, name), 0)
        _check_whole("seed", self.seed)


def _check_choice(name: str, value: Any, known: Any) -> None:
    if value not in known:
        raise ValueError(f"expected {name} among {', '.join(known)}; got '{value}'")


def _check_whole(name: str, value: Any, least: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number as {name}, got {value!r}")
    if least is not None and value < least:
        raise ValueError(f"expected {name} of at least {least}, got {value}")


def _check_positive(name: str, value: Any) -> None:
    if not (_is_number(value) and value > 0):
        raise ValueError(f"expected a positive {name}, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
