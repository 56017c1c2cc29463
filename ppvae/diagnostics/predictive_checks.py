r"""Predictive checks: do rows that the story generates look like the data, in the statistics that
matter?

A check compares :math:`T(x)` of the data with :math:`T(x^{rep})` of replicated data sets of the
same size. Replicates of the posterior are drawn given the guide's latent draws of each row, so that
they follow the rows: the check is mild, and a story that fails it misses something plain.
Replicates of the prior come from the story alone, so that this check sees whether the story as a
whole generates data like these.
"""

__all__ = [
    "STATISTICS",
    "PredictiveCheck",
    "Statistic",
    "posterior_predictive_check",
    "prior_predictive_check",
]

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.requirements import Pair, as_problem
from ppvae.estimate import Estimate
from ppvae.problem import missing_as
from ppvae.problem.generation import replicate
from ppvae.result import Result
from ppvae.story import TensorDict, partially_observed, simulate

Statistic = Callable[[Tensor], Tensor]
EXTREME = 0.025


def _present(x: Tensor) -> Tensor:
    """All entries that are not missing."""
    return x[~torch.isnan(x)]


STATISTICS: dict[str, Statistic] = {
    "mean": lambda x: _present(x).mean(),
    "standard deviation": lambda x: _present(x).std(),
    "maximum": lambda x: _present(x).max(),
    "share of zeros": lambda x: (_present(x) == 0).to(x.dtype).mean(),
}


@dataclass(frozen=True)
class PredictiveCheck(Result):
    """Statistics of the data beside those of replicated data.

    Arguments:
        observed: `site: statistic` -> T of the data, any shape, in the statistic's unit.
        replicated: The same of each replicate, `(S, *)`.
        kind: `posterior` or `prior`.
    """

    observed: dict[str, Tensor]
    replicated: dict[str, Tensor]
    kind: str

    @property
    def tail_probability(self) -> dict[str, Estimate]:
        """P(T(rep) >= T(data)), ties counted half; near 0 or 1 the data are unlike."""
        found = {}
        for name, value in self.observed.items():
            rep = self.replicated[name]
            share = ((rep > value).double() + 0.5 * (rep == value).double()).mean(0)
            # One pseudo-count on either side: an error of 0 would claim that the share is exact.
            near = (share * len(rep) + 1) / (len(rep) + 2)
            found[name] = Estimate(share, (near * (1 - near) / len(rep)).sqrt())
        return found

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """`warn` where the data lie among the most extreme 2.5 % of replicates on either side,
        corrected for the numbers that the statistic has; `fail` where they still do when corrected
        for all statistics, of which one in twenty is extreme by chance. `none` where every
        replicate equals the data, as the maximum of black and white pixels does.
        """
        return {name: self._verdict(name, p.value) for name, p in self.tail_probability.items()}

    def _verdict(self, name: str, share: Tensor) -> Verdict:
        replicated = self.replicated[name]
        if bool((replicated == self.observed[name]).all()):
            return "none"
        tail = float(torch.minimum(share, 1 - share).min()) * share.numel()
        enough = 1 / (len(replicated) + 1) < EXTREME  # fewer replicates cannot tell
        if enough and tail * len(self.observed) < EXTREME:
            return "fail"
        return "warn" if tail < EXTREME else "pass"

    @property
    def verdict(self) -> Verdict:
        """The worst of the statistics'."""
        return min(self.verdicts.values(), key=("fail", "warn", "pass", "none").index)

    @property
    def worst(self) -> dict[str, tuple[float, float]]:
        """Of each statistic the tail probability furthest from one half, and its error."""
        found = {}
        for name, p in self.tail_probability.items():
            at = int((p.value - 0.5).abs().argmax())
            found[name] = (float(p.value.flatten()[at]), float(p.std_error.flatten()[at]))
        return found

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One line a statistic: the tail probability furthest from one half."""
        lines = []
        for name, (value, error) in self.worst.items():
            side = "more" if value < 0.5 else "less"
            remedy = "try another likelihood or prior"
            if self.kind == "posterior":
                remedy = f"mend the guide if calibration failed, else {remedy}"
            advice = f"the data have {side} of it than rows of the story: {remedy}"
            verdict = self.verdicts[name]
            bar = f"{EXTREME} to {1 - EXTREME}"
            bar = "none; always as in the data" if verdict == "none" else bar
            estimate = Estimate(torch.tensor(value), torch.tensor(error))
            lines.append(
                Finding.of(f"{self.kind} predictive, {name}", estimate, bar, verdict, advice)
            )
        return tuple(lines)


def posterior_predictive_check(
    story: Pair,
    guide: nn.Module | None = None,
    data: Any = None,
    *,
    statistics: Mapping[str, Statistic] | None = None,
    num_replicates: int = 200,
    seed: int = 0,
) -> PredictiveCheck:
    """Compare the data with replicates drawn from the guide's latent draws.

    A finite site that some rows miss and that others depend on, such as a label, is held at its
    data where it is shown and drawn from its posterior elsewhere; it is not itself checked.

    Arguments:
        story: The story; or a `Problem` of story, guide and rows, with nothing for the two next.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        statistics: Name -> function from an observed site's rows `(B, *row)`, NaN where missing, to
            a tensor of any fixed shape; run on every observed site. None: mean, standard deviation,
            maximum and share of zeros.
        num_replicates: S data sets of the size of the data; one is held in memory at a time.
        seed: Seed of the draws.

    Returns:
        Statistics and tail probabilities.

    Raises:
        ValueError: If there is no replicate, or a statistic returns NaN or no tensor.

    Source:
        A. Gelman, X.-L. Meng, H. Stern (1996). Posterior predictive assessment of model fitness via
        realized discrepancies.
    """
    problem = as_problem(story, guide, data)
    # Labels, say: drawn where they are missing, else held at the data.
    held = partially_observed(problem.story, problem.batch, problem.sites)
    names = _names(problem.batch, [n for n in problem.sites.observed if n not in held])

    def replicates() -> Iterator[TensorDict]:
        for size in problem.particle_sizes(num_replicates):
            parts = [
                replicate(piece, piece.draw_all(size).values)
                for piece in problem.pieces(num_particles=size)
            ]
            rows = {name: torch.cat([p[name] for p in parts], 1) for name in names}
            yield from ({name: value[s] for name, value in rows.items()} for s in range(size))

    with torch.no_grad(), problem.eval_mode(seed):
        return _check({k: problem.batch[k] for k in names}, statistics, replicates(), "posterior")


def prior_predictive_check(
    story: Pair,
    data: Any = None,
    *,
    statistics: Mapping[str, Statistic] | None = None,
    num_replicates: int = 200,
    seed: int = 0,
) -> PredictiveCheck:
    """Compare the data with data sets that the story generates; arguments as in
    `posterior_predictive_check`.

    Of a story whose parameters were trained on the data this is a check of the trained story, not
    of a prior that was chosen before the data were seen.
    """
    problem = as_problem(story, None, data)
    names = _names(problem.batch, problem.sites.observed)
    inputs: dict[str, Any] = problem.program.inputs(problem.batch)

    def replicates() -> Iterator[TensorDict]:
        for _ in range(num_replicates):
            drawn = simulate(problem.story, problem.num_rows, **inputs)
            yield {name: missing_as(drawn[name], problem.batch.get(name)) for name in names}

    with torch.no_grad(), problem.eval_mode(seed):
        return _check({k: problem.batch[k] for k in names}, statistics, replicates(), "prior")


def _names(batch: TensorDict, observed: Collection[str]) -> list[str]:
    names = [name for name in observed if name in batch]
    if not names:
        raise ValueError(
            f"expected data under the names of observed sites {sorted(observed)}, got "
            f"{sorted(batch)}; give data and sites the same names"
        )
    return names


def _check(
    data: TensorDict,
    statistics: Mapping[str, Statistic] | None,
    replicates: Iterable[TensorDict],
    kind: str,
) -> PredictiveCheck:
    statistics = STATISTICS if statistics is None else statistics
    if not statistics:
        raise ValueError("expected at least one statistic, got none")
    observed = _measure(statistics, data)
    rows = [_measure(statistics, one) for one in replicates]
    if not rows:
        raise ValueError("expected at least one replicate, got none; raise num_replicates")
    return PredictiveCheck(observed, {k: torch.stack([r[k] for r in rows]) for k in observed}, kind)


def _measure(statistics: Mapping[str, Statistic], data: TensorDict) -> TensorDict:
    """Every statistic of every site, `site: statistic` -> tensor."""
    found = {}
    for site, value in data.items():
        for name, statistic in statistics.items():
            result = torch.as_tensor(statistic(value))
            if bool(torch.isnan(result.double()).any()):
                raise ValueError(
                    f"statistic '{name}' of site '{site}': expected numbers, got NaN; entries that "
                    "are missing in the data are NaN in the replicates too"
                )
            found[f"{site}: {name}"] = result
    return found
