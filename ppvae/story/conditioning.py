r"""Conditioning a story on rows of data, and running it forward."""

__all__ = ["Observed", "observe", "run_forward", "scale_rows", "simulate", "trace_sites"]

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.story.batch import Batch, as_batch, num_rows_of
from ppvae.story.distributions import distribution_mean
from ppvae.story.handlers import Condition, RowScale, check_vectorized
from ppvae.story.programs import program_of
from ppvae.story.running import TensorDict, eval_mode, local_params, run, seeded
from ppvae.story.sites import DATA_PLATE, Layout, Sites, is_bookkeeping

# Rows of a traced run: a number that seldom is also the length of an event, so that a forgotten
# `to_event` shows.
ROWS_TO_TRACE = 5


class Observed(nn.Module):
    """A story conditioned on the batch it is called with: an ordinary Pyro model.

    Keys of the batch that the story's `forward` takes as arguments are covariates; all others must
    name
    sites, which are then observed. NaN means missing: filled with a valid value and masked.

    A plain module, not a PyroModule: Pyro lets no module that has run become part of another
    PyroModule.
    """

    def __init__(self, story: nn.Module, batch: Batch | None = None) -> None:
        super().__init__()
        self.story = story
        self.batch = None if batch is None else as_batch(batch)

    def forward(self, batch: Batch | None = None) -> None:
        batch = self.batch if batch is None else as_batch(batch)
        if batch is None:
            raise ValueError("expected a batch: observe(story)(batch) or observe(story, batch)()")
        program_of(self.story).run_conditioned(batch, {}, 0)


def observe(story: nn.Module, batch: Batch | None = None) -> Observed:
    """The conditioned model, for `pyro.infer.SVI`, `Predictive`, MCMC and every other Pyro tool.

    Arguments:
        story: A story whose `forward(n, **covariates)` generates `n` rows.
        batch: Rows to condition on, name -> `(B, *event)`; a bare tensor is the site `x`. Without
            it, the result is called with a batch.

    Returns:
        A Pyro model, callable as `observe(story)(batch)` or `observe(story, batch)()`.
    """
    return Observed(story, batch)


class _RowsScaled(nn.Module):
    def __init__(self, program: nn.Module, num_rows: int) -> None:
        super().__init__()
        self.program = program
        self.num_rows = num_rows

    def forward(self, batch: Batch) -> Any:
        batch = as_batch(batch)
        with RowScale(self.num_rows / num_rows_of(batch)):
            return run(self.program, batch)


def scale_rows(program: nn.Module, num_rows: int) -> nn.Module:
    """Make sites in the plate `data` count `N/B` times, so that global sites are weighed rightly.

    Apply it to the observed story and to the guide.

    Arguments:
        program: An observed story or a guide, called with a batch of `B` rows.
        num_rows: Number `N` of rows in all.
    """
    return _RowsScaled(program, num_rows)


def simulate(
    story: nn.Module, n: int, *, seed: int | None = None, **covariates: Tensor
) -> TensorDict:
    """Generate `n` rows: every site, latent and observable.

    Arguments:
        story: The story.
        n: Number of rows.
        seed: Seed of this draw; None draws from the global generator.
        covariates: Name -> `(n, *)`, passed to the story.

    Returns:
        Site name -> `(n, *inner plates, *event)`; a global site has its own shape.
    """
    return run_forward(story, n, covariates, seed=seed)


def run_forward(
    story: nn.Module,
    n: int,
    covariates: TensorDict,
    *,
    seed: int | None,
    values: Mapping[str, Tensor] | None = None,
    draws: Collection[str] | None = None,
    advice: str = "",
) -> TensorDict:
    """Generate `n` rows with some sites held at values, and means in place of draws.

    Arguments:
        story: The story.
        n: Number of rows.
        covariates: Name -> `(n, *)`, passed to the story.
        seed: Seed of this draw; None draws from the global generator.
        values: Site -> `(n, *row)`, held in place of a draw.
        draws: Sites whose value is wanted; all others give the mean of their distribution. None for
            all.
        advice: What to do about a distribution without a mean.

    Returns:
        Site name -> `(n, *row)`, without gradients; a global site has its own shape.

    Raises:
        ValueError: If there is no row, a value names no site, or a mean is wanted of a distribution
            that has none.
    """
    if n < 1:
        raise ValueError(f"expected at least one row to simulate, got n={n}")
    condition = Condition(values, {}, 0) if values else nullcontext()
    rows: TensorDict = {}
    with torch.no_grad(), eval_mode(story), local_params(story), seeded(seed, story):
        with poutine.trace() as traced, condition:
            story(n, **covariates)
        nodes: dict[str, Any] = dict(traced.trace.nodes)
        sites = {k: v for k, v in nodes.items() if v["type"] == "sample" and not is_bookkeeping(v)}
        unknown = sorted(set(values or {}) - set(sites))
        if unknown:
            raise ValueError(f"expected sites among {sorted(sites)}, got {unknown}")
        for name, node in sites.items():
            check_vectorized(node["cond_indep_stack"])
            layout = Layout.of(node["cond_indep_stack"], node["fn"].event_dim)
            is_drawn = draws is None or name in draws
            value = node["value"] if is_drawn else distribution_mean(name, node["fn"], advice)
            rows[name] = layout.to_rows(value).detach()
    return rows


def trace_sites(story: nn.Module, batch: Batch) -> Sites:
    """The story's sites when it is conditioned on rows like `batch`, from one traced run on a few
    of them.

    Arguments:
        story: The story.
        batch: Name -> `(B, *event)`.

    Returns:
        The sites by name, each marked latent or observed.

    Raises:
        ValueError: If the story has no plate `data`, observes a site by itself, or the batch does
            not fit its sites.
    """
    batch = as_batch(batch)
    num_rows_of(batch)
    few = {k: v[:ROWS_TO_TRACE] for k, v in batch.items()}
    with torch.no_grad(), eval_mode(story), local_params(story), seeded(0, story):
        trace = _traced(story, few)
    sites = Sites.from_trace(trace)
    if not any(s.layout.row_dim is not None for s in sites.values()):
        raise ValueError(
            f'expected a plate named "{DATA_PLATE}" around the rows, got a story with none; '
            f'write `with pyro.plate("{DATA_PLATE}", n):` around the sites {sorted(sites)}'
        )
    if program_of(story).generates_rows:
        for name in sites.observed:
            if name not in batch and not isinstance(trace.nodes[name]["fn"], dist.Unit):
                raise ValueError(
                    f"site '{name}': expected the story to observe nothing by itself, got obs=... "
                    f"inside it; take obs= away and give the values as data, {{'{name}': values}}"
                )
    return sites


def _traced(story: nn.Module, batch: TensorDict) -> Any:
    """The trace of one conditioned run, Pyro's complaint about plates put in the story's words."""
    try:
        return poutine.trace(lambda: program_of(story).run_conditioned(batch, {}, 0)).get_trace()
    except ValueError as error:
        if "Shape mismatch inside plate" not in str(error):
            raise
        raise ValueError(
            f"expected each plate to be one batch dimension of its sites, got: {error}; declare "
            "the dimensions of one draw as event dimensions with .to_event(1)"
        ) from error
