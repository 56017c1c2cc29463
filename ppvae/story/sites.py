r"""The sites of a story, read from one traced run: names, shapes, supports, plates, roles."""

__all__ = ["DATA_PLATE", "Layout", "Site", "Sites"]

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro.poutine.util import site_is_subsample
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.story.running import PARTICLES

DATA_PLATE = "data"


@dataclass(frozen=True)
class Layout:
    """Where a site's plates stand among its batch dimensions.

    Outside this folder values are *rows first*: `(*particles, rows, *inner plates, *event)`. Inside
    a Pyro program a plate sits at the negative batch dimension that Pyro gave it. This class goes
    between the two.

    Arguments:
        row_dim: Batch dimension (negative) of the plate `data`; None for a global site.
        inner: `(dim, size)` of the plates inside `data` (or, for a global site, around it),
            outermost last.
        event_dim: Number of event dimensions.
    """

    row_dim: int | None
    inner: tuple[tuple[int, int], ...]
    event_dim: int

    @classmethod
    def of(cls, stack: Sequence[Any], event_dim: int) -> "Layout":
        """Read the layout off a site's stack of plates (`cond_indep_stack`)."""
        frames = [f for f in stack if f.vectorized and f.name != PARTICLES]
        rows = [f.dim for f in frames if f.name == DATA_PLATE]
        inner = sorted((f.dim, f.size) for f in frames if f.name != DATA_PLATE)
        return cls(rows[0] if rows else None, tuple(inner), event_dim)

    @property
    def inner_shape(self) -> Size:
        return Size([size for _, size in self.inner])

    @property
    def depth(self) -> int:
        """Number of batch dimensions that the site's plates span, with no particles."""
        dims = [d for d, _ in self.inner] + ([] if self.row_dim is None else [self.row_dim])
        return -min(dims, default=0)

    @property
    def is_simple(self) -> bool:
        return not self.inner and self.row_dim in (None, -1)

    def to_program(
        self, value: Tensor, event_dim: int | None = None, particle_dim: int = 0
    ) -> Tensor:
        """Rows-first value to Pyro's layout.

        Arguments:
            value: `(*particles, rows, *inner, *event)`; a global site has no `rows`.
            event_dim: Trailing dimensions that are no plates, if not the site's own.
            particle_dim: The batch dimension (negative) of the particle plate, 0 for none.

        Returns:
            The same numbers with shape `(*particles, *plates, *event)`.
        """
        event_dim = self.event_dim if event_dim is None else event_dim
        num_own = len(self.inner) + (self.row_dim is not None)
        lead = value.dim() - event_dim - num_own
        if self.is_simple and lead == 0:
            return value
        own = ([] if self.row_dim is None else [self.row_dim]) + [d for d, _ in self.inner]
        order = sorted(range(num_own), key=lambda i: own[i])
        axes = [*range(lead), *(lead + i for i in order), *range(lead + num_own, value.dim())]
        value = value.permute(axes)
        depth = -particle_dim - 1 if lead and particle_dim else self.depth
        batch = [1] * depth
        for position, i in enumerate(order):
            batch[own[i]] = value.shape[lead + position]
        return value.reshape([*value.shape[:lead], *batch, *value.shape[lead + num_own :]])

    def to_rows(self, value: Tensor, event_dim: int | None = None, particle_dim: int = 0) -> Tensor:
        """Pyro's layout to rows first: the inverse of `to_program`."""
        event_dim = self.event_dim if event_dim is None else event_dim
        if self.is_simple and not particle_dim:
            return value
        width = -particle_dim if particle_dim else self.depth
        batch_dim = value.dim() - event_dim
        value = value.reshape((1,) * (width - batch_dim) + tuple(value.shape))
        own = ([] if self.row_dim is None else [self.row_dim]) + [d for d, _ in self.inner]
        lead = [0] if particle_dim else []
        axes = [*lead, *(width + d for d in own)]
        unused = [a for a in range(width) if a not in axes]
        value = value.permute(*axes, *range(width, value.dim()), *unused)
        return value.reshape(value.shape[: value.dim() - len(unused)])


@dataclass(frozen=True)
class Site:
    """One `pyro.sample` statement of a story.

    Arguments:
        name: Name of the site.
        role: Whether the data show it.
        is_local: Inside the plate `data` (one value a row) or outside (one value in all).
        event_shape: Shape of one draw, without plates.
        inner_plates: Names of the plates other than `data`, in the order of `layout.inner`.
        support: The set of its values.
        layout: Where its plates stand.
        dtype: The type of its values.
    """

    name: str
    role: Literal["latent", "observed"]
    is_local: bool
    event_shape: Size
    inner_plates: tuple[str, ...]
    support: constraints.Constraint
    layout: Layout
    dtype: torch.dtype = torch.float32

    @property
    def row_shape(self) -> Size:
        """Shape of one row (or of the one value of a global site): inner plates, then event."""
        return Size([*self.layout.inner_shape, *self.event_shape])

    @property
    def is_discrete(self) -> bool:
        return bool(self.support.is_discrete)


class Sites(dict[str, Site]):
    """The sites of a story by name, in the order in which the program meets them.

    Attributes:
        parents: Names of the sites that other sites depend on; None until somebody has asked for
            them.
    """

    parents: set[str] | None = None

    @classmethod
    def from_trace(cls, trace: Any) -> "Sites":
        sites = cls()
        for name, node in trace.nodes.items():
            if node["type"] == "sample" and not is_bookkeeping(node):
                sites[name] = _site(name, node)
        return sites

    @property
    def max_plate_nesting(self) -> int:
        """Number of batch dimensions that the story's plates span."""
        return max((s.layout.depth for s in self.values()), default=1) or 1

    @property
    def particle_dim(self) -> int:
        """The batch dimension where a plate of particles stands: left of all other plates."""
        return -1 - self.max_plate_nesting

    @property
    def latent(self) -> "Sites":
        return Sites((n, s) for n, s in self.items() if s.role == "latent")

    @property
    def observed(self) -> "Sites":
        return Sites((n, s) for n, s in self.items() if s.role == "observed")

    @property
    def local_latent(self) -> "Sites":
        return Sites((n, s) for n, s in self.latent.items() if s.is_local)

    @property
    def local_continuous(self) -> "Sites":
        """The local latent sites that stand in `u`."""
        return Sites((n, s) for n, s in self.local_latent.items() if not s.is_discrete)

    @property
    def local_discrete(self) -> "Sites":
        return Sites((n, s) for n, s in self.local_latent.items() if s.is_discrete)

    @property
    def global_latent(self) -> "Sites":
        return Sites((n, s) for n, s in self.latent.items() if not s.is_local)

    @property
    def row_dim(self) -> int:
        """Batch dimension of the plate `data`."""
        return next(s.layout.row_dim for s in self.values() if s.layout.row_dim is not None)


def is_bookkeeping(message: Any) -> bool:
    """True for statements that draw nothing: plate subsampling and `pyro.deterministic`."""
    return site_is_subsample(message) or bool(message["infer"].get("_deterministic"))


def _site(name: str, node: Any) -> Site:
    fn = node["fn"]
    layout = Layout.of(node["cond_indep_stack"], fn.event_dim)
    names = {f.dim: f.name for f in node["cond_indep_stack"] if f.vectorized}
    return Site(
        name=name,
        role="observed" if node["is_observed"] else "latent",
        is_local=any(f.name == DATA_PLATE for f in node["cond_indep_stack"]),
        event_shape=Size(fn.event_shape),
        inner_plates=tuple(names[dim] for dim, _ in layout.inner),
        support=_support(name, fn),
        layout=layout,
        dtype=node["value"].dtype,
    )


def _support(name: str, fn: Any) -> constraints.Constraint:
    """The support of one row: bounds lose the dimensions of the plates."""
    support = fn.support
    if not isinstance(support, constraints.Constraint):
        return constraints.real
    return _one_row(name, support, fn.event_dim)


def _one_row(name: str, support: constraints.Constraint, event_dim: int) -> constraints.Constraint:
    own: dict[str, Any] = {}
    for key, bound in vars(support).items():
        if isinstance(bound, constraints.Constraint):
            inner = _one_row(name, bound, event_dim)
            if inner is not bound:
                own[key] = inner
        elif isinstance(bound, Tensor) and bound.dim() > event_dim:
            first = bound.reshape(-1, *bound.shape[bound.dim() - event_dim :])[0]
            if not bool((bound == first).all()):
                raise ValueError(
                    f"site '{name}': expected the same support in every row, got {key} that "
                    "differs between rows; draw a standardised variable and rescale it instead"
                )
            own[key] = first
    if not own:
        return support
    row = copy(support)
    vars(row).update(own)
    return row
