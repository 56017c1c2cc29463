r"""Gradient estimators side by side: bias, noise and time of each objective's gradient."""

__all__ = ["DEFAULT_OBJECTIVES", "EstimatorBench", "EstimatorRow", "estimator_bench"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ppvae import objectives as losses
from ppvae.objectives import Objective
from ppvae.objectives.gradients import (
    Gradients,
    measure_gradients,
    parameter_groups,
    train_baseline,
)
from ppvae.problem import Problem
from ppvae.progress import stages
from ppvae.result import Result
from ppvae.story import TensorDict, local_params

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_OBJECTIVES = ("score_function", "trace_elbo", "stl", "iwae", "dreg", "vimco")
REFERENCE_FACTOR = 10
# Estimators of the same gradient that serve as its reference: along paths, and without.
REFERENCES = {"elbo": ("trace_elbo", "score_function"), "iwelbo": ("iwae", "vimco")}

ExactBound = Callable[[TensorDict], Tensor]


@dataclass(frozen=True)
class EstimatorRow:
    """One estimator's gradient by one group of parameters.

    Arguments:
        objective: The estimator.
        group: `story`, or a part of the guide (`encoder`, `heads`, `flow`, `global`, `guide`).
        target: The bound whose gradient is the reference, `elbo` or `iwelbo`.
        bias: |mean gradient − reference| / |reference|, dimensionless.
        bias_floor: What `bias` would be by noise alone, were there none.
        variance: Sum of the variances of the numbers of the gradient, in (nats per row)² per
            squared unit of the parameters.
        snr: |mean gradient| / sqrt(variance), dimensionless; higher is better.
        milliseconds: Of one loss and its gradient, the median.
    """

    objective: str
    group: str
    target: str
    bias: float
    bias_floor: float
    variance: float
    snr: float
    milliseconds: float


@dataclass(frozen=True)
class EstimatorBench(Result):
    """The comparison of estimators on the same rows and parameters.

    Arguments:
        rows: A line for each estimator and group of parameters.
        num_rows: Rows of data, B.
        num_particles: Particles of each row.
        num_repeats: Independent gradients behind each line.
    """

    rows: list[EstimatorRow]
    num_rows: int
    num_particles: int
    num_repeats: int

    def row(self, objective: str, group: str) -> EstimatorRow:
        """The line of one estimator and group.

        Raises:
            ValueError: If there is none.
        """
        for row in self.rows:
            if (row.objective, row.group) == (objective, group):
                return row
        known = sorted({(r.objective, r.group) for r in self.rows})
        raise ValueError(
            f"expected an estimator and a group among {known}; got {(objective, group)}"
        )

    def to_pandas(self) -> "pd.DataFrame":
        """One line for each estimator and group of parameters."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows]).set_index(["objective", "group"])


def estimator_bench(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    objectives: Sequence[str] | Mapping[str, str | Objective] = DEFAULT_OBJECTIVES,
    *,
    num_particles: int = 10,
    num_repeats: int = 200,
    exact: Mapping[str, ExactBound] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> EstimatorBench:
    r"""Measure the gradient of each objective at the parameters as they are, all rows as one batch.

    Every estimator draws `num_repeats` independent gradients. Their mean is held against the
    gradient of the bound that the objective climbs: the ELBO, or for `iwae` and its kin the
    importance-weighted bound with as many particles. An objective that climbs neither (`renyi`,
    `free_bits`, `monte_carlo_em`) is held against the ELBO's. Baselines are trained first and stay
    fixed while the gradients are drawn.

    Arguments:
        story: The story.
        guide: Its guide.
        data: The rows, anything that `ppvae.data.as_rows` takes.
        objectives: Names of `ppvae.objectives.OBJECTIVES`, or label -> name or objective made with
            options of its own.
        num_particles: Particles of each row, for objectives given by name.
        num_repeats: Gradients of each estimator, at least 2.
        exact: `elbo` or `iwelbo` -> the bound of a batch's rows, `(B,)`, in closed form or by
            enumeration; its gradient is then the reference. Elsewhere ten times as many independent
            gradients make it.
        seed: Seed of all draws.
        progress: Show a progress bar on a terminal.

    Returns:
        The table, printable, as a data frame, and as a figure.

    Raises:
        ValueError: If there is nothing to measure, or an objective does not suit story and guide.

    Source:
        T. Rainforth, A. R. Kosiorek, T. A. Le, C. J. Maddison, M. Igl, F. Wood, Y. W. Teh (2018).
        Tighter variational bounds are not necessarily better.
    """
    named = objectives if isinstance(objectives, Mapping) else {name: name for name in objectives}
    if not named or num_repeats < 2:
        raise ValueError(
            f"expected at least one objective and two repeats, got {list(named)} and "
            f"num_repeats={num_repeats}"
        )
    problem = Problem.of(story, guide, data)
    batch = problem.batch

    def made(objective: str | Objective) -> Objective:
        if isinstance(objective, Objective):
            _refuse_other_bound(objective, num_particles)
            return objective
        return losses.build_on(problem, objective, num_particles=num_particles)

    groups = parameter_groups(story, guide)
    built = {label: made(objective) for label, objective in named.items()}
    targets = list(dict.fromkeys(_target(o) for o in built.values()))
    found: list[EstimatorRow] = []
    references: dict[str, Gradients] = {}
    with (
        local_params(story, guide),
        problem.eval_mode(seed),
        stages(len(targets) + len(built), progress) as stage,
    ):
        for target in targets:
            stage(f"reference of {target}")
            if exact is not None and target in exact:
                references[target] = Gradients.exact(-exact[target](batch).mean(), groups)
                continue
            reference = made(_reference(target, built))
            train_baseline(reference, batch)
            repeats = REFERENCE_FACTOR * num_repeats
            references[target] = measure_gradients(reference, batch, groups, repeats)
        for label, objective in built.items():
            stage(label)
            train_baseline(objective, batch)
            measured = measure_gradients(objective, batch, groups, num_repeats)
            target = _target(objective)
            found += _rows(label, target, measured, references[target])
    return EstimatorBench(found, problem.num_rows, num_particles, num_repeats)


def _refuse_other_bound(objective: Objective, num_particles: int) -> None:
    """All estimators of a bound share one reference: the bound with as many particles."""
    if objective.is_bound_on == "iwelbo" and objective.num_particles != num_particles:
        raise ValueError(
            f"expected {objective.name} with the bench's num_particles={num_particles}, got "
            f"{objective.num_particles}; its bound is another one"
        )
    if not objective.kl_weights.is_plain:
        raise ValueError(f"expected {objective.name} with beta=1, got {objective.beta}")


def _target(objective: Objective) -> str:
    return objective.is_bound_on or "elbo"


def _reference(target: str, built: Mapping[str, Objective]) -> str:
    """The name of an unbiased estimator of the target; path-wise where the guide allows."""
    along, without = REFERENCES[target]
    return along if next(iter(built.values())).has_paths else without


def _rows(label: str, target: str, measured: Gradients, reference: Gradients) -> list[EstimatorRow]:
    rows = []
    for group in measured.mean:
        size = float(reference.mean[group].norm())
        distance = float((measured.mean[group] - reference.mean[group]).norm())
        noise = (measured.noise(group) + reference.noise(group)) ** 0.5
        rows.append(
            EstimatorRow(
                label,
                group,
                target,
                bias=distance / size,
                bias_floor=noise / size,
                variance=measured.total_variance(group),
                snr=measured.snr(group),
                milliseconds=measured.milliseconds,
            )
        )
    return rows
