r"""Several ways to find log p(x) side by side, from the same q* on the same rows."""

__all__ = ["EvidenceTable", "evidence_table"]

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ppvae.config import EvidenceConfig
from ppvae.estimate import Estimate
from ppvae.inference.bdmc import Sandwich, certify_problem
from ppvae.inference.log_evidence import measure_rows
from ppvae.inference.methods import LOWER_BOUNDS, check_methods
from ppvae.inference.pieces import in_precision, sibling_path
from ppvae.problem import Problem
from ppvae.result import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class EvidenceTable(Result):
    """log p(x) of the same rows by several methods.

    Arguments:
        estimates: Method -> log p(x) of each row, `(B,)`, in nats.
        seconds: Method -> seconds that it took, beside those for q*.
        local_seconds: Seconds that q* took, for all methods together.
        certificate: Bounds on simulated rows with the same annealing; None where none was.
    """

    estimates: dict[str, Estimate]
    seconds: dict[str, float]
    local_seconds: float
    certificate: Sandwich | None = None

    def to_pandas(self) -> "pd.DataFrame":
        """One line a method: mean over the rows, its standard error, seconds."""
        import pandas as pd

        means = {name: estimate.mean() for name, estimate in self.estimates.items()}
        return pd.DataFrame(
            {
                "value": {name: float(mean.value) for name, mean in means.items()},
                "std_error": {name: float(mean.std_error) for name, mean in means.items()},
                "seconds": self.seconds,
            }
        ).rename_axis("method")

    @property
    def best(self) -> str | None:
        """The best lower bound in mean; None if no method was one."""
        bounds = [name for name in self.estimates if name in LOWER_BOUNDS]
        return max(bounds, key=lambda n: float(self.estimates[n].value.mean()), default=None)


def evidence_table(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    methods: Sequence[str],
    *,
    config: EvidenceConfig = EvidenceConfig(),
    checkpoint: Path | str | None = None,
    executor: Executor | None = None,
    **fields: Any,
) -> EvidenceTable:
    """Measure log p(x) by each method.

    Arguments:
        story: The story.
        guide: A guide for it; fitted to q* once, for all methods.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        methods: Keys of `METHODS`.
        config: How to measure; its `method` does not count.
        checkpoint: A file that keeps the rows that are done, with one beside it for the
            certificate; a call that finds them goes on from there, to the same numbers.
        executor: A `concurrent.futures.Executor` that measures pieces of rows, to the same numbers;
            None measures here.
        fields: Fields of `config` to change.

    Returns:
        The table.

    Raises:
        ValueError: If a method is unknown or does not suit the story, or an estimate is not finite.
    """
    config = config.replace(**fields)
    story, precise = in_precision(config.precision, story, guide)
    problem = Problem.of(story, precise, data)
    check_methods(methods, problem, config)
    found = measure_rows(problem, methods, config, checkpoint, executor)
    certificate = None
    if "ais" in methods:
        file = sibling_path(checkpoint, "certificate")
        certificate = certify_problem(problem, config, checkpoint=file, executor=executor)
    seconds = {name: float(found[f"{name} seconds"].sum()) for name in ("q*", *methods)}
    estimates = {name: Estimate.named(name, found) for name in methods}
    return EvidenceTable(estimates, seconds, seconds.pop("q*"), certificate)
