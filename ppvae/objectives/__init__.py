r"""Training objectives: modules that turn a batch into a loss in nats per row.

Each is one file and one row in `OBJECTIVES`.

Read in this order: `base` (the contract), `trace_elbo` and `mean_field_elbo` (Pyro's own), then any
other. `gradients` and `bench` compare their gradients.
"""

from typing import Any

from torch import nn

from ppvae.objectives.base import Objective
from ppvae.objectives.baselines import BASELINES
from ppvae.objectives.dreg import DReG
from ppvae.objectives.enum_elbo import EnumELBO
from ppvae.objectives.free_bits import FreeBits
from ppvae.objectives.iwae import IWAE
from ppvae.objectives.mean_field_elbo import MeanFieldELBO
from ppvae.objectives.monte_carlo_em import MonteCarloEM
from ppvae.objectives.renyi import Renyi
from ppvae.objectives.reweighted_wake_sleep import ReweightedWakeSleep
from ppvae.objectives.score_function import ScoreFunction
from ppvae.objectives.stl import StickingTheLanding
from ppvae.objectives.trace_elbo import TraceELBO
from ppvae.objectives.vimco import VIMCO
from ppvae.objectives.wake_sleep import WakeSleep
from ppvae.options import did_you_mean, refuse_unknown_options
from ppvae.problem import Problem

__all__ = [
    "BASELINES",
    "IWAE",
    "OBJECTIVES",
    "VIMCO",
    "DReG",
    "EnumELBO",
    "FreeBits",
    "MeanFieldELBO",
    "MonteCarloEM",
    "Objective",
    "Renyi",
    "ReweightedWakeSleep",
    "ScoreFunction",
    "StickingTheLanding",
    "TraceELBO",
    "WakeSleep",
    "build",
    "build_on",
    "check_request",
]

OBJECTIVES: dict[str, type[Objective]] = {
    "trace_elbo": TraceELBO,
    "mean_field_elbo": MeanFieldELBO,
    "enum_elbo": EnumELBO,
    "score_function": ScoreFunction,
    "stl": StickingTheLanding,
    "iwae": IWAE,
    "dreg": DReG,
    "vimco": VIMCO,
    "renyi": Renyi,
    "free_bits": FreeBits,
    "wake_sleep": WakeSleep,
    "reweighted_wake_sleep": ReweightedWakeSleep,
    "monte_carlo_em": MonteCarloEM,
}


def build(name: str, story: nn.Module, guide: nn.Module, data: Any, **options: Any) -> Objective:
    """Make the named objective for a story, its guide, and the rows to train on.

    Arguments:
        name: A key of `OBJECTIVES`.
        story: The story.
        guide: Its guide.
        data: The training rows, anything that `ppvae.data.as_rows` takes.
        options: Further arguments of the objective's class.

    Returns:
        The objective, with all its parameters.

    Raises:
        ValueError: If the name or an option is unknown, or story, guide and data do not suit it.
    """
    check_request(name, options)  # before the rows are looked at
    return build_on(Problem.for_training(story, guide, data), name, **options)


def build_on(problem: Problem, name: str, **options: Any) -> Objective:
    """Make the named objective for a story, guide and rows that have been checked."""
    check_request(name, options)
    return OBJECTIVES[name](problem, **options)


def check_request(name: str, options: Any = ()) -> None:
    """Refuse a name or options that there are not.

    Raises:
        ValueError: Naming those that there are.
    """
    if name not in OBJECTIVES:
        hint = did_you_mean(name, OBJECTIVES)
        raise ValueError(f"expected an objective among {', '.join(OBJECTIVES)}; got '{name}'{hint}")
    refuse_unknown_options(f"objective '{name}'", OBJECTIVES[name], Objective, options)
