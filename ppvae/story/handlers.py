r"""Pyro effect handlers that condition a story on rows and score it row by row."""

__all__ = [
    "Condition",
    "RowLogProb",
    "RowScale",
    "SampleRows",
    "check_vectorized",
    "has_missing",
    "known_missing",
    "valid_value",
]

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from typing import Any, Self

import torch
from pyro.distributions import Categorical
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to, constraints

from ppvae.story.distributions import base_distribution, distribution_mean
from ppvae.story.relaxed import relax
from ppvae.story.running import TensorDict
from ppvae.story.sites import DATA_PLATE, Layout, is_bookkeeping


class Condition(Messenger):
    """Fix sites to given rows: observed values (NaN = missing) and latent values with particles.

    Arguments:
        values: Site -> `(B, *inner plates, *event)`.
        latents: Site -> `(S, B, *inner plates, *event)`.
        particle_dim: Batch dimension of the particle plate, 0 for none.
    """

    def __init__(
        self, values: Mapping[str, Tensor], latents: Mapping[str, Tensor], particle_dim: int
    ) -> None:
        super().__init__()
        self.values, self.latents, self.particle_dim = values, latents, particle_dim
        self.seen: set[str] = set()
        self.met: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if is_bookkeeping(msg):
            return
        check_vectorized(msg["cond_indep_stack"])
        self.met.add(name)
        if name in self.values and msg["is_observed"]:
            raise ValueError(
                f"site '{name}': expected the story to generate it, got obs=... inside the story, "
                "beside values in the data; take obs= away"
            )
        if name in self.latents:
            value = self._in_program(msg, self.latents[name])
            msg["fn"] = relax(msg["fn"])
        elif name in self.values:
            check_shape(name, self.values[name], msg["fn"], msg["cond_indep_stack"])
            value = self._in_program(msg, self.values[name])
            if has_missing(value, name):
                value, msg["fn"] = fill_and_mask(name, value, msg["fn"])
            if value.is_floating_point() and isinstance(base_distribution(msg["fn"]), Categorical):
                value = value.long()  # files and missing values make numbers of labels
            value = self._beside_particles(value, msg["fn"].event_dim)
        else:
            msg["fn"] = relax(msg["fn"])  # a guide may replay a relaxed draw here
            return
        self.seen.add(name)
        msg["value"] = value
        msg["is_observed"] = True

    def _beside_particles(self, value: Tensor, event_dim: int) -> Tensor:
        """Data with a particle dimension like the latent sites, so that a story may join them."""
        if not (self.particle_dim and self.latents):
            return value
        num_particles = len(next(iter(self.latents.values())))
        width = -self.particle_dim - 1 + event_dim
        value = value.reshape((1,) * (width - value.dim()) + tuple(value.shape))
        return value.expand(num_particles, *value.shape)

    def _in_program(self, msg: Any, value: Tensor) -> Tensor:
        layout = Layout.of(msg["cond_indep_stack"], msg["fn"].event_dim)
        return layout.to_program(value, particle_dim=self.particle_dim)


class RowLogProb(Messenger):
    """Add up the log densities of all sites, row by row, without keeping a trace.

    Attributes:
        local: Sum over the sites in the plate `data`, shape `(S, B)`, in nats.
        shared: Sum over the sites outside, shape `(S,)`, in nats.
        by_site: Site -> its own share, `(S, B)` or `(S,)`, in nats.
    """

    def __init__(self, particle_dim: int, num_particles: int, num_rows: int) -> None:
        super().__init__()
        self.particle_dim, self.num_particles, self.num_rows = particle_dim, num_particles, num_rows
        self.by_site: TensorDict = {}
        self.is_local: dict[str, bool] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_bookkeeping(msg):
            return
        log_prob = scale_and_mask(msg["fn"].log_prob(msg["value"]), msg["scale"], msg["mask"])
        rows = [f.dim for f in msg["cond_indep_stack"] if f.name == DATA_PLATE]
        self.is_local[msg["name"]] = bool(rows)
        self.by_site[msg["name"]] = self._to_rows(log_prob, rows[0] if rows else None)

    def _to_rows(self, log_prob: Tensor, row_dim: int | None) -> Tensor:
        width = -self.particle_dim
        log_prob = log_prob.reshape((1,) * (width - log_prob.dim()) + tuple(log_prob.shape))
        others = [d for d in range(1 - width, 0) if d != row_dim]
        if others:
            log_prob = log_prob.sum(others)
        shape = (self.num_particles,) if row_dim is None else (self.num_particles, self.num_rows)
        return log_prob.expand(shape)

    @classmethod
    def stacked(cls, each: Sequence[Self]) -> Self:
        """Several runs of one particle as one run of several."""
        whole = copy(each[0])
        whole.num_particles = len(each)
        whole.by_site = {k: torch.cat([one.by_site[k] for one in each]) for k in each[0].by_site}
        return whole

    def _total(self, is_local: bool, shape: tuple[int, ...]) -> Tensor:
        parts = [v for k, v in self.by_site.items() if self.is_local[k] == is_local]
        if parts:
            return torch.stack(parts).sum(0) if len(parts) > 2 else sum(parts[1:], parts[0])
        like = next(iter(self.by_site.values()), torch.zeros(()))
        return like.new_zeros(shape)

    @property
    def local(self) -> Tensor:
        return self._total(True, (self.num_particles, self.num_rows))

    @property
    def shared(self) -> Tensor:
        return self._total(False, (self.num_particles,))


class SampleRows(RowLogProb):
    """Run a program and keep what it draws, rows first, beside its log densities.

    Arguments:
        log_probs: Whether densities are wanted.
        means: Sites of which the mean of the distribution is kept in place of the value.

    Attributes:
        values: Site -> `(S, B, *inner plates, *event)`; a global site `(S, *event)`.
    """

    def __init__(
        self,
        particle_dim: int,
        num_particles: int,
        num_rows: int,
        log_probs: bool = True,
        means: Collection[str] = (),
    ) -> None:
        super().__init__(particle_dim, num_particles, num_rows)
        self.log_probs, self.means = log_probs, means
        self.values: TensorDict = {}

    @classmethod
    def stacked(cls, each: Sequence[Self]) -> Self:
        whole = super().stacked(each)
        whole.values = {k: torch.cat([one.values[k] for one in each]) for k in each[0].values}
        return whole

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_bookkeeping(msg):
            return
        if self.log_probs:
            super()._pyro_post_sample(msg)
        if not msg["infer"].get("is_auxiliary"):
            layout = Layout.of(msg["cond_indep_stack"], msg["fn"].event_dim)
            name, value = msg["name"], msg["value"]
            if name in self.means:
                advice = f"hold it at its data with given=['{name}']"
                value = distribution_mean(name, msg["fn"], advice)
            self.values[name] = layout.to_rows(value, particle_dim=self.particle_dim)


class RowScale(Messenger):
    """Count the sites in the plate `data` `factor` times."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def _pyro_sample(self, msg: Any) -> None:
        if any(f.name == DATA_PLATE for f in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] * self.factor


def check_vectorized(stack: Any) -> None:
    """The plate of the rows must be vectorised: a loop gives each row a site of its own."""
    if any(f.name == DATA_PLATE and not f.vectorized for f in stack):
        raise ValueError(
            f'expected the plate "{DATA_PLATE}" to hold all rows at once, got a loop over it; '
            f'write `with pyro.plate("{DATA_PLATE}", n):` and tensors with the rows in front'
        )


def check_shape(name: str, value: Tensor, fn: Any, stack: Any) -> None:
    """One row of the data must have the shape that the story draws."""
    layout = Layout.of(stack, fn.event_dim)
    lead = 0 if layout.row_dim is None else 1
    expected = (*layout.inner_shape, *fn.event_shape)
    if tuple(value.shape[lead:]) != expected:
        raise ValueError(
            f"site '{name}': expected rows of shape {expected}, got {tuple(value.shape[lead:])}; "
            "reshape the data or build the story for this shape"
        )


def fill_and_mask(name: str, value: Tensor, fn: Any) -> tuple[Tensor, Any]:
    """Fill missing entries with a valid value and mask them out of the density.

    Filling before masking keeps gradients finite: a masked NaN would still give NaN gradients.
    """
    missing = torch.isnan(value)
    depth = 0
    while hasattr(fn, "base_dist") and type(fn).__name__ in ("Independent", "ReshapedDistribution"):
        depth += fn.reinterpreted_batch_ndims
        fn = fn.base_dist
    own = fn.event_dim
    entry = missing
    if own:
        entry = missing.flatten(-own).any(-1)
        is_checked = _missing_names.get() is not None
        if not is_checked and not bool((entry == missing.flatten(-own).all(-1)).all()):
            raise ValueError(
                f"site '{name}': expected whole events of {type(fn).__name__} to be missing, got "
                f"some entries of its {own}-dimensional event missing; {type(fn).__name__} does "
                "not factorise over its entries, so give a missing event NaN throughout"
            )
    filled = torch.where(missing, valid_value(fn.support, value), value)
    masked = fn.mask(~entry)
    return filled, masked.to_event(depth) if depth else masked


_missing_names: ContextVar[frozenset[str] | None] = ContextVar("missing_names", default=None)


@contextmanager
def known_missing(names: Collection[str]) -> Iterator[None]:
    """Tell which keys may miss values in the block, so that no step looks at the numbers.

    A look waits for the device, and ends the capture of a step as a graph. Keys that may miss
    values are masked whether they do or not, which changes no number.

    Arguments:
        names: Keys of the batches; all others are complete.
    """
    token = _missing_names.set(frozenset(names))
    try:
        yield
    finally:
        _missing_names.reset(token)


def has_missing(value: Tensor, name: str = "") -> bool:
    """Whether entries may be NaN: as `known_missing` says of the key `name`, else by a look."""
    if not value.is_floating_point():
        return False
    known = _missing_names.get()
    if known is not None and name:
        return name in known
    # A sum keeps NaN and is cheaper than a mask; large numbers may sum to NaN too.
    return bool(torch.isnan(value.sum())) and bool(torch.isnan(value).any())


def valid_value(support: constraints.Constraint, like: Tensor) -> Tensor:
    """Some value inside `support`, broadcastable with `like`."""
    event_dim = support.event_dim
    if support.is_discrete:
        value = torch.as_tensor(getattr(support, "lower_bound", 0)).to(like)
        if event_dim and not bool(support.check(torch.zeros_like(like)).all()):
            value = torch.zeros_like(like)  # one-hot: the first category
            value[..., 0] = 1
        return value
    transform = biject_to(support)
    shape = transform.inverse_shape(like.shape) if event_dim else like.shape
    return transform(like.new_zeros(shape))
