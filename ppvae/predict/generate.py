r"""New rows from a story, and what stands at chosen values of its latent sites."""

__all__ = ["generate", "traverse"]

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.story import Layout, TensorDict, local_params, seeded_eval
from ppvae.story.conditioning import simulate
from ppvae.story.handlers import Condition
from ppvae.story.sites import is_bookkeeping
from ppvae.story.validation import parent_sites

from .decoder import mean_of


def generate(
    story: nn.Module,
    n: int,
    *,
    seed: int | None = None,
    mean: bool = False,
    **covariates: Tensor,
) -> TensorDict:
    """Generate `n` new rows: draws from the story itself.

    Arguments:
        story: The story.
        n: Number of rows.
        seed: Seed of the draw; None draws from the global generator.
        mean: Whether the sites that no other site depends on hold the mean of their distribution in
            place of a draw: the chance of ink in place of a black or white pixel.
        covariates: Name -> `(n, *)`, passed to the story.

    Returns:
        Every site, name -> `(n, *row)`; a global site has its own shape.

    Raises:
        ValueError: If `n` is below 1, or `mean` is asked of a site whose distribution has none.
    """
    if not mean or n < 1:
        return simulate(story, n, seed=seed, **covariates)
    nodes = _traced(story, n, covariates, seed)
    return _rows(nodes, parent_sites(story, covariates, n), "generate with mean=False")


def traverse(
    story: nn.Module,
    latents: Mapping[str, Tensor],
    *,
    seed: int = 0,
    **covariates: Tensor,
) -> TensorDict:
    """Walk through the latent sites: the means of all others at chosen values of some.

    Sites that are not chosen, and that others depend on, are drawn from the story, given those that are.

    Arguments:
        story: The story.
        latents: Latent site -> its value at each of `n` stops, `(n, *row)`; `ppvae.viz.plots.plane` gives those of a square.
        seed: Seed of the sites that are drawn.
        covariates: Name -> `(n, *)`, passed to the story.

    Returns:
        Every site, name -> `(n, *row)`: as chosen, as drawn, or its mean where no other site depends on it.

    Raises:
        ValueError: If no site is chosen, the stops differ in number, a name is no site of the story, or a mean is
            asked of a distribution that has none.
    """
    counts = {name: len(value) for name, value in latents.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(
            f"expected latent sites with one value a stop, all of one number of stops; got {counts}"
        )
    n = next(iter(counts.values()))
    condition = Condition(dict(latents), {}, 0)
    nodes = _traced(story, n, covariates, seed, condition)
    unknown = sorted(set(latents) - condition.seen)
    if unknown:
        raise ValueError(f"expected sites among {sorted(condition.met)}, got {unknown}")
    return _rows(nodes, parent_sites(story, covariates, n) | set(latents), "choose its values too")


def _traced(
    story: nn.Module, n: int, covariates: TensorDict, seed: int | None, around: Any = None
) -> dict[str, Any]:
    """The sites of one run of the story."""
    run = poutine.trace(story)
    with torch.no_grad(), local_params(story), seeded_eval(seed, story), around or nullcontext():
        nodes: Any = run.get_trace(n, **covariates).nodes
    return {
        name: node
        for name, node in nodes.items()
        if node["type"] == "sample" and not is_bookkeeping(node)
    }


def _rows(nodes: dict[str, Any], kept: set[str], advice: str) -> TensorDict:
    """Values of the sites that are kept, means of the others, rows first."""
    rows: TensorDict = {}
    for name, node in nodes.items():
        layout = Layout.of(node["cond_indep_stack"], node["fn"].event_dim)
        rows[name] = layout.to_rows(node["value"] if name in kept else mean_of(node, advice))
    return rows
