r"""What a guide draws, and along which paths gradients may come back through it.

Three ways to draw: *along the path* (`weights.draw`: both the draws and their density move with the guide's
parameters), *detached* (only the density does, as score-function gradients need it), and *stopped* (only the
draws do, as sticking the landing needs it). The last runs the guide twice, the second time with its parameters held
and its draws given back to it, so that it serves every guide: flows, chains of sites, adopted programs.
"""

__all__ = ["GuideSite", "draw_detached", "draw_path", "draw_stopped", "sites_drawn"]

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ppvae.problem.weights import draw
from ppvae.story import Layout, SampleRows, Sites, TensorDict, seeded
from ppvae.story.sites import is_bookkeeping

# From a site's value, in Pyro's layout, its layout, and the particle (None: all at once), to the value to go on with.
Edit = Callable[[str, Tensor, Layout, int | None], Tensor]
Around = Callable[[int | None], Messenger]


@dataclass(frozen=True)
class GuideSite:
    """What a guide draws at one of its sites, auxiliary ones included.

    Arguments:
        fn: The distribution, in Pyro's layout, of one particle of two rows.
        is_local: Inside the plate `data`.
        has_path: Whether its draws are differentiable functions of its parameters.
        is_apart: Whether the particles of a row are drawn independently of each other.
        has_density: Whether their score is a log density; with a reverse model it is not (`auxiliary`).
    """

    fn: Any
    is_local: bool
    has_path: bool
    is_independent: bool
    has_density: bool

    @classmethod
    def of(cls, fn: Any, is_local: bool) -> "GuideSite":
        inner = _unwrapped(fn)
        is_independent = not getattr(inner, "is_stratified", False)
        return cls(
            fn, is_local, bool(fn.has_rsample), is_independent, getattr(inner, "has_density", True)
        )


class _Editing(Messenger):
    """Change the values that a guide draws before anything depends on them, its own later statements included."""

    def __init__(self, edit: Edit, particle: int | None) -> None:
        super().__init__()
        self.edit, self.particle = edit, particle

    def _pyro_post_sample(self, msg: Any) -> None:
        if not is_bookkeeping(msg):
            layout = Layout.of(msg["cond_indep_stack"], msg["fn"].event_dim)
            msg["value"] = self.edit(msg["name"], msg["value"], layout, self.particle)


class _Watching(Messenger):
    def __init__(self) -> None:
        super().__init__()
        self.met: dict[str, GuideSite] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not is_bookkeeping(msg):
            layout = Layout.of(msg["cond_indep_stack"], msg["fn"].event_dim)
            self.met[msg["name"]] = GuideSite.of(msg["fn"], layout.row_dim is not None)


def sites_drawn(guide: nn.Module, batch: TensorDict, sites: Sites) -> dict[str, GuideSite]:
    """What the guide draws, auxiliary sites included, by name.

    Arguments:
        guide: Any Pyro guide.
        batch: A few rows, name -> `(B, *event)`.
        sites: The story's sites.
    """
    watching = _Watching()
    draw(guide, batch, 1, sites, lambda particle: watching)
    return watching.met


def draw_path(
    guide: nn.Module,
    batch: TensorDict,
    num_particles: int,
    sites: Sites,
    *,
    one_global: bool = False,
) -> SampleRows:
    """Draw along the path.

    Arguments:
        guide: Any Pyro guide.
        batch: Rows, name -> `(B, *event)`.
        num_particles: S.
        sites: The story's sites.
        one_global: Whether all particles share one draw of the global sites, as a bound that averages weights inside
            the logarithm needs it: rows are independent given one value, not given several.
    """
    if not (one_global and sites.global_latent and num_particles > 1):
        return draw(guide, batch, num_particles, sites)
    return draw(guide, batch, num_particles, sites, _around(_Shared(sites)))


def draw_detached(
    guide: nn.Module,
    batch: TensorDict,
    num_particles: int,
    sites: Sites,
    *,
    one_global: bool = False,
) -> SampleRows:
    """Draw local sites without a path: their density alone moves with the parameters. Arguments as for `draw_path`."""
    share = _Shared(sites) if one_global else _as_it_is

    def edit(name: str, value: Tensor, layout: Layout, particle: int | None) -> Tensor:
        value = share(name, value, layout, particle)
        return value if layout.row_dim is None else value.detach()

    return draw(guide, batch, num_particles, sites, _around(edit))


def draw_stopped(
    guide: nn.Module,
    batch: TensorDict,
    num_particles: int,
    sites: Sites,
    *,
    one_global: bool = False,
    cut: Edit | None = None,
) -> tuple[SampleRows, SampleRows]:
    """Draw along the path, and score the draws with the guide's parameters held.

    Arguments:
        guide: Any Pyro guide.
        batch: Rows, name -> `(B, *event)`.
        num_particles: S.
        sites: The story's sites.
        one_global: As for `draw_path`.
        cut: What the second run is given of each draw, the draw itself by default.

    Returns:
        The first run, along the path; and the second, whose values are what was given and whose density moves with
        them alone.
    """
    share = _Shared(sites) if one_global else _as_it_is
    kept: dict[tuple[str, int | None], Tensor] = {}

    def keep(name: str, value: Tensor, layout: Layout, particle: int | None) -> Tensor:
        kept[name, particle] = share(name, value, layout, particle)
        return kept[name, particle]

    def give_back(name: str, value: Tensor, layout: Layout, particle: int | None) -> Tensor:
        given = kept[name, particle]
        return given if cut is None else cut(name, given, layout, particle)

    # One seed for both runs: an encoder with dropout drops the same units in both.
    seed = int(torch.randint(2**62, ()))
    with seeded(seed, guide):
        free = draw(guide, batch, num_particles, sites, _around(keep))
    with seeded(seed, guide), _held(guide):
        return free, draw(guide, batch, num_particles, sites, _around(give_back))


class _Shared:
    """One draw of each global site for all particles: the first one's."""

    def __init__(self, sites: Sites) -> None:
        self.particle_dim = sites.particle_dim
        self.first: TensorDict = {}

    def __call__(self, name: str, value: Tensor, layout: Layout, particle: int | None) -> Tensor:
        if layout.row_dim is not None:
            return value
        if particle is None:  # the particles lead
            return value[:1].expand_as(value)
        if particle == 0:
            self.first[name] = value
        return self.first[name]


def _as_it_is(name: str, value: Tensor, layout: Layout, particle: int | None) -> Tensor:
    return value


def _around(edit: Edit) -> Around:
    return lambda particle: _Editing(edit, particle)


@contextmanager
def _held(guide: nn.Module) -> Iterator[None]:
    """Run a guide whose parameters are constants: graphs that are built in the block do not reach them.

    Nor do they reach those of a story that the guide itself runs on the way to its draws.
    """
    modules = (guide, *getattr(guide, "stories", ()))
    free = [p for module in modules for p in module.parameters() if p.requires_grad]
    try:
        for parameter in free:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)


def _unwrapped(fn: Any) -> Any:
    while isinstance(fn, dist.Independent) or type(fn).__name__ in (
        "MaskedDistribution",
        "ExpandedDistribution",
    ):
        fn = fn.base_dist
    return fn
