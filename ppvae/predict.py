r"""What a trained story and guide say: new rows, rows encoded, rows encoded and decoded again."""

__all__ = ["embed", "generate", "reconstruct"]

from collections.abc import Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.chunks import particle_step, row_chunks
from ppvae.data import as_rows
from ppvae.estimate import Estimate
from ppvae.story import (
    Layout,
    Sites,
    TensorDict,
    local_params,
    measuring,
    num_rows_of,
    particle_plate,
)
from ppvae.story.messengers import Condition
from ppvae.story.observe import simulate, split_batch
from ppvae.story.sites import is_bookkeeping
from ppvae.story.values import parents_of
from ppvae.weights import batch_for, check_pair, draw_all


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
    parents = parents_of(story, covariates, n)
    with torch.no_grad(), local_params(story), measuring(seed, story):
        nodes: Any = poutine.trace(story).get_trace(n, **covariates).nodes
    rows: TensorDict = {}
    for name, node in nodes.items():
        if node["type"] == "sample" and not is_bookkeeping(node):
            layout = Layout.of(node["cond_indep_stack"], node["fn"].event_dim)
            is_leaf = name not in parents
            value = _mean_of(node, "generate with mean=False") if is_leaf else node["value"]
            rows[name] = layout.to_rows(value)
    return rows


def embed(
    story: nn.Module, guide: nn.Module, data: Any, *, num_particles: int = 100, seed: int = 0
) -> dict[str, Estimate]:
    """The posterior mean of every latent site, row by row: the guide's, or the exact one where it leaves a site out.

    The mean of a discrete site is that of its numbers: a probability for a coin, an expected count
    for a count, of little meaning for a category.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_particles: Draws of each row, S.
        seed: Seed of the draws.

    Returns:
        Latent site -> estimate `(B, *row)` in the site's own unit; a global site has its own shape. A finite site that
        some rows miss, such as a label, stands there too.

    Raises:
        ValueError: If the data or the guide do not fit the story, or `num_particles` is below 1.
    """
    batch, sites = _paired(story, guide, data, num_particles)
    parts: list[dict[str, Estimate]] = []
    with torch.no_grad(), measuring(seed, story, guide):
        for rows in row_chunks(batch, guide):
            moments: dict[str, _Moments] = {}
            for size in _steps(rows, num_particles):
                for name, value in draw_all(story, guide, rows, size, sites).values.items():
                    moments.setdefault(name, _Moments()).add(value)
            parts.append({name: m.estimate() for name, m in moments.items()})
    # The guide of a global site does not look at the rows: the draws of one chunk tell all.
    shared = sites.global_latent
    return {
        name: parts[0][name] if name in shared else Estimate.cat([p[name] for p in parts])
        for name in parts[0]
    }


def reconstruct(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    given: Sequence[str] = (),
    num_particles: int = 1,
    seed: int = 0,
) -> TensorDict:
    """Encode rows and decode them again: the mean of each observed site under the guide's draws.

    The story is run on the latent draws alone, so that no observed value can come back by itself.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        given: Observed sites to hold at their data, such as labels that other sites depend on; they
            are not reconstructed.
        num_particles: Draws of each row, S; the means are averaged over them.
        seed: Seed of the draws.

    Returns:
        Observed site -> `(B, *row)`, in the data's own unit.

    Raises:
        ValueError: If the data or the guide do not fit the story, `given` names no observed site,
            or an observed site's distribution has no mean.
    """
    batch, sites = _paired(story, guide, data, num_particles)
    unknown = sorted(set(given) - set(sites.observed))
    if unknown:
        raise ValueError(f"expected `given` among {sorted(sites.observed)}, got {unknown}")
    parts: list[TensorDict] = []
    with torch.no_grad(), measuring(seed, story, guide):
        for rows in row_chunks(batch, guide):
            total: TensorDict = {}
            for size in _steps(rows, num_particles):
                latents = draw_all(story, guide, rows, size, sites).values
                for name, means in _observed_means(story, rows, latents, sites, given).items():
                    total[name] = total.get(name, torch.zeros_like(means[0])) + means.sum(0)
            parts.append({name: t / num_particles for name, t in total.items()})
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


class _Moments:
    """Mean and standard error of draws that arrive in pieces (T. Chan, G. Golub, R. LeVeque,
    1979)."""

    mean: Tensor
    squares: Tensor

    def __init__(self) -> None:
        self.count = 0

    def add(self, draws: Tensor) -> None:
        """Take `(S, *)` more draws."""
        draws = draws if draws.is_floating_point() else draws.to(torch.get_default_dtype())
        count, mean = len(draws), draws.mean(0)
        squares = (draws - mean).square().sum(0)
        if self.count:
            shift, total = mean - self.mean, self.count + count
            squares = self.squares + squares + shift.square() * (self.count * count / total)
            mean = self.mean + shift * (count / total)
        self.count, self.mean, self.squares = self.count + count, mean, squares

    def estimate(self) -> Estimate:
        """The mean `(*,)`; its standard error is NaN for a single draw."""
        if self.count == 1:
            return Estimate(self.mean, torch.full_like(self.mean, torch.nan))
        return Estimate(self.mean, (self.squares / (self.count - 1) / self.count).sqrt())


def _paired(
    story: nn.Module, guide: nn.Module, data: Any, num_particles: int
) -> tuple[TensorDict, Sites]:
    if num_particles < 1:
        raise ValueError(f"expected at least one particle, got num_particles={num_particles}")
    batch = batch_for(story, as_rows(data))
    return batch, check_pair(story, guide, batch)


def _steps(rows: TensorDict, num_particles: int) -> list[int]:
    """Sizes of the pieces in which the particles of these rows fit in memory."""
    step = particle_step(rows, num_rows_of(rows))
    return [min(step, num_particles - done) for done in range(0, num_particles, step)]


def _observed_means(
    story: nn.Module, rows: TensorDict, latents: TensorDict, sites: Sites, given: Sequence[str]
) -> TensorDict:
    """Mean of each observed site given the latent ones, name -> `(S, B, *row)`."""
    num_particles, num_rows = next(iter(latents.values())).shape[0], num_rows_of(rows)
    held = {name: rows[name] for name in given}
    wanted = [n for n in sites.observed if n not in given]
    if hasattr(story, "run_conditioned"):
        # An adopted model takes its rows as arguments, lets go of its observations when it
        # generates, and need not know particle dimensions: one run for each.
        each = [
            _means(story, rows, Condition(held, one, 0), wanted, 0, num_rows)
            for one in ({k: v[s] for k, v in latents.items()} for s in range(num_particles))
        ]
        return {name: torch.stack([one[name] for one in each]) for name in wanted}
    dim = sites.particle_dim
    with particle_plate(num_particles, dim):
        condition = Condition(held, latents, dim)
        return _means(story, split_batch(story, rows)[1], condition, wanted, dim, num_rows)


def _means(
    story: nn.Module,
    inputs: TensorDict,
    condition: Condition,
    wanted: Sequence[str],
    particle_dim: int,
    num_rows: int,
) -> TensorDict:
    """One run of the story under `condition`, and the means of the wanted sites, rows first."""
    with local_params(story), poutine.trace() as traced, condition:
        story(num_rows, **inputs)
    nodes: Any = traced.trace.nodes
    means = {}
    for name in wanted:
        value = _mean_of(nodes[name], f"hold it at its data with given=['{name}']")
        layout = Layout.of(nodes[name]["cond_indep_stack"], nodes[name]["fn"].event_dim)
        means[name] = layout.to_rows(value, particle_dim=particle_dim)
    return means


def _mean_of(node: Any, advice: str) -> Tensor:
    """Mean of a traced site's distribution, in Pyro's layout."""
    fn = node["fn"]
    try:
        value = fn.mean
    except NotImplementedError:
        value = torch.tensor(torch.nan)
    if bool(torch.isnan(value).any()):
        base = fn
        while hasattr(base, "base_dist"):
            base = base.base_dist
        raise ValueError(
            f"site '{node['name']}': expected a distribution with a mean, got "
            f"{type(base).__name__}; {advice}"
        )
    return value.expand(fn.shape())
