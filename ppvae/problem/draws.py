r"""Draws of a guide, and the paths along which gradients may come back through them.

Three modes: *path-wise* (draws and their density both move with the guide's parameters), *detached*
(only the density does, as score-function gradients need it), and *frozen density* (only the draws
do, as sticking the landing needs it). The last mode runs the guide twice, the second time with its
parameters frozen and its draws given back to it, so that
it serves every guide: flows, chains of sites, adopted programs.
"""

__all__ = [
    "EditDraw",
    "GuideSite",
    "draw",
    "draw_detached",
    "draw_path",
    "draw_with_frozen_density",
    "record_guide_sites",
]

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ppvae.story import (
    Layout,
    SampleRows,
    Sites,
    TensorDict,
    local_params,
    num_rows_of,
    run,
    run_particles,
    seeded,
)
from ppvae.story.sites import is_bookkeeping

if TYPE_CHECKING:
    from ppvae.problem.problem import Problem

# From a site's name, value in Pyro's layout, layout, and particle (None: all at once) to the value
# to go on with.
EditDraw = Callable[[str, Tensor, Layout, int | None], Tensor]
Handler = Callable[[int | None], AbstractContextManager[Any]]


@dataclass(frozen=True)
class GuideSite:
    """What a guide draws at one of its sites, auxiliary ones included.

    Arguments:
        fn: The distribution, in Pyro's layout, of one particle of two rows.
        is_local: Inside the plate `data`.
        has_path: Whether its draws are differentiable functions of its parameters.
        is_independent: Whether the particles of a row are drawn independently of each other.
        has_density: Whether their score is a log density; with a reverse model it is not
            (`auxiliary`).
    """

    fn: Any
    is_local: bool
    has_path: bool
    is_independent: bool
    has_density: bool

    @classmethod
    def of(cls, fn: Any, is_local: bool) -> "GuideSite":
        inner = fn
        while isinstance(inner, dist.Independent) or type(inner).__name__ in (
            "MaskedDistribution",
            "ExpandedDistribution",
        ):
            inner = inner.base_dist
        is_independent = not getattr(inner, "is_stratified", False)
        has_density = getattr(inner, "has_density", True)
        return cls(fn, is_local, bool(fn.has_rsample), is_independent, has_density)


def draw(
    guide: nn.Module,
    batch: TensorDict,
    num_particles: int,
    sites: Sites,
    handler: Handler = nullcontext,
) -> SampleRows:
    """Run the guide for S particles.

    Arguments:
        guide: Any Pyro guide, called with the batch.
        batch: Name -> `(B, *event)`.
        num_particles: S.
        sites: The story's sites under this batch.
        handler: A handler around each run of the guide: made with None where one run draws all
            particles, else with the particle's number.

    Returns:
        What was drawn, and its log density by site.
    """
    particle = itertools.count()

    def run_once(_: TensorDict, num: int, dim: int) -> SampleRows:
        drawn = SampleRows(sites.particle_dim, num, num_rows_of(batch))
        with local_params(guide), handler(None if dim else next(particle)), drawn:
            run(guide, batch)
        return drawn

    takes_particles = hasattr(guide, "posterior")  # a guide of the library
    return run_particles(run_once, {}, sites.particle_dim, takes_particles, num_particles)


def record_guide_sites(
    guide: nn.Module, batch: TensorDict, sites: Sites
) -> tuple[SampleRows, dict[str, GuideSite]]:
    """One particle of the guide, and what it draws at each site, auxiliary sites included."""
    found: dict[str, GuideSite] = {}

    class Record(Messenger):
        def _pyro_post_sample(self, msg: Any) -> None:
            if not is_bookkeeping(msg):
                layout = Layout.of(msg["cond_indep_stack"], msg["fn"].event_dim)
                found[msg["name"]] = GuideSite.of(msg["fn"], layout.row_dim is not None)

    return draw(guide, batch, 1, sites, lambda particle: Record()), found


def draw_path(problem: "Problem", num_particles: int, *, share_globals: bool = False) -> SampleRows:
    """Draw path-wise.

    Arguments:
        problem: Guide and rows.
        num_particles: S.
        share_globals: Whether all particles share one draw of the global sites, as a bound that
            averages weights inside the logarithm needs it: rows are independent given one value.
    """
    if share_globals and problem.sites.global_latent and num_particles > 1:
        return _draw(problem, num_particles, _editing(_FirstGlobalDraw()))
    return _draw(problem, num_particles)


def draw_detached(
    problem: "Problem", num_particles: int, *, share_globals: bool = False
) -> SampleRows:
    """Draw local sites without a path: only their density moves. Arguments as `draw_path`."""
    share = _FirstGlobalDraw() if share_globals else _unchanged

    def edit(name: str, value: Tensor, layout: Layout, particle: int | None) -> Tensor:
        value = share(name, value, layout, particle)
        return value if layout.row_dim is None else value.detach()

    return _draw(problem, num_particles, _editing(edit))


def draw_with_frozen_density(
    problem: "Problem",
    num_particles: int,
    *,
    share_globals: bool = False,
    edit: EditDraw | None = None,
) -> tuple[SampleRows, SampleRows]:
    """Draw path-wise, and score the draws with the guide's parameters frozen.

    Arguments:
        problem: Guide and rows.
        num_particles: S.
        share_globals: As for `draw_path`.
        edit: What the second run is given of each draw, the draw itself by default.

    Returns:
        The first run, path-wise; and the second, whose values are what was given and whose density
        moves with them alone.
    """
    share = _FirstGlobalDraw() if share_globals else _unchanged
    kept: dict[tuple[str, int | None], Tensor] = {}

    def keep(name: str, value: Tensor, layout: Layout, particle: int | None) -> Tensor:
        kept[name, particle] = share(name, value, layout, particle)
        return kept[name, particle]

    def give_back(name: str, value: Tensor, layout: Layout, particle: int | None) -> Tensor:
        given = kept[name, particle]
        return given if edit is None else edit(name, given, layout, particle)

    guide = problem.guide
    # One seed for both runs: an encoder with dropout drops the same units in both.
    drops = any(isinstance(m, _DropoutNd) and m.training for m in guide.modules())
    seed = int(torch.randint(2**62, ())) if drops else None
    with seeded(seed, guide):
        free = _draw(problem, num_particles, _editing(keep))
    with seeded(seed, guide), _frozen_parameters(guide):
        return free, _draw(problem, num_particles, _editing(give_back))


def _draw(problem: "Problem", num_particles: int, handler: Handler = nullcontext) -> SampleRows:
    if problem.guide is None:
        raise ValueError("expected a guide to draw from, got none; pass guide=...")
    return draw(problem.guide, problem.batch, num_particles, problem.sites, handler)


class _EditDraws(Messenger):
    """Change the values that a guide draws before its later statements depend on them."""

    def __init__(self, edit: EditDraw, particle: int | None) -> None:
        super().__init__()
        self.edit, self.particle = edit, particle

    def _pyro_post_sample(self, msg: Any) -> None:
        if not is_bookkeeping(msg):
            layout = Layout.of(msg["cond_indep_stack"], msg["fn"].event_dim)
            msg["value"] = self.edit(msg["name"], msg["value"], layout, self.particle)


def _editing(edit: EditDraw) -> Handler:
    return lambda particle: _EditDraws(edit, particle)


def _unchanged(name: str, value: Tensor, layout: Layout, particle: int | None) -> Tensor:
    return value


class _FirstGlobalDraw:
    """One draw of each global site for all particles: the first one's."""

    def __init__(self) -> None:
        self.first: TensorDict = {}

    def __call__(self, name: str, value: Tensor, layout: Layout, particle: int | None) -> Tensor:
        if layout.row_dim is not None:
            return value
        if particle is None:  # the particles lead
            return value[:1].expand_as(value)
        if particle == 0:
            self.first[name] = value
        return self.first[name]


@contextmanager
def _frozen_parameters(guide: nn.Module) -> Iterator[None]:
    """Run a guide whose parameters, and those of a story that it runs itself, are constants."""
    modules = (guide, *getattr(guide, "stories", ()))
    free = [p for module in modules for p in module.parameters() if p.requires_grad]
    try:
        for parameter in free:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)
