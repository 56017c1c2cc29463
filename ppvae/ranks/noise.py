r"""Draws for a part of a batch that are those of the whole: cutting a batch, over processes or one piece after the other,
then changes no draw.

Where the number of random bits does not depend on the parameters (normal, uniform, exponential, Cauchy, Bernoulli and
categorical draws, dropout), each part draws for all rows from the same state of torch's generator and keeps its own.
Others (gamma, Dirichlet, Poisson, binomial) come from a generator of the part's own: right, but not the same draws.
Draws inside other functions of torch (dropout of channels, of attention and of recurrent layers, `gumbel_softmax`) are not
seen: each part then draws one and the same pattern for its own rows.
"""

__all__ = ["PartNoise", "drawing", "noise_state", "set_noise_state"]

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppvae.ranks.part import Part

IN_PLACE = ("normal_", "uniform_", "exponential_", "cauchy_", "geometric_", "bernoulli_")
SHAPED = (torch.rand, torch.randn)
LIKE = (torch.rand_like, torch.randn_like)
BY_VALUE = (torch.normal, torch.bernoulli, Tensor.bernoulli)
OWN = (torch._standard_gamma, torch._sample_dirichlet, torch.poisson, torch.binomial)


_num_particles: ContextVar[int] = ContextVar("num_particles", default=1)


@contextmanager
def drawing(num_particles: int) -> Iterator[None]:
    """Tell `PartNoise` how many particles the draws in the block have in front of their rows."""
    token = _num_particles.set(num_particles)
    try:
        yield
    finally:
        _num_particles.reset(token)


class PartNoise(TorchFunctionMode):
    """A context in which programs on a part of a batch draw what they would draw for their rows of the whole.

    The rows of a draw stand along its first dimension of the part's length, or the second one where there are as many
    particles in front; draws without one are the same in all parts.

    Arguments:
        part: Which rows.
    """

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.rows, self.total = part.rows, part.total
        self.num_rows = self.rows.stop - self.rows.start

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        draw = DRAWS.get(func)
        options = kwargs or {}
        return func(*args, **options) if draw is None else draw(self, func, args, options)

    def _cut(self, shape: Any, draw: Callable[[list[int]], Tensor]) -> Tensor:
        """The part's rows of a draw of the whole, which `draw` makes in a given shape."""
        whole = [*shape]
        dim = self._row_dim(whole)
        if dim is None:
            return draw(whole)
        whole[dim] = self.total
        return draw(whole).narrow(dim, self.rows.start, self.num_rows).clone()

    def _row_dim(self, shape: Sequence[int]) -> int | None:
        """The dimension of the rows, if there is one."""
        found = [dim for dim, size in enumerate(shape) if size == self.num_rows]
        are_particles = found[:1] == [0] and _num_particles.get() == self.num_rows
        return found[1] if are_particles and len(found) > 1 else next(iter(found), None)

    def _in_place(self, func: Any, args: Any, options: Any) -> Tensor:
        target, *rest = args
        return target.copy_(
            self._cut(target.shape, lambda shape: func(target.new_empty(shape), *rest, **options))
        )

    def _shaped(self, func: Any, args: Any, options: Any) -> Tensor:
        size = options.pop("size", None) or args
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        return self._cut(shape, lambda whole: func(whole, **options))

    def _like(self, func: Any, args: Any, options: Any) -> Tensor:
        return self._cut(args[0].shape, lambda shape: func(args[0].new_empty(shape), **options))

    def _by_value(self, func: Any, args: Any, options: Any) -> Tensor:
        """Every row has a parameter of its own: those of the other rows do not matter."""
        if "size" in options or len(args) > 2:  # the same parameters for all rows
            size, *given = (
                (options.pop("size"), *args) if "size" in options else (args[2], *args[:2])
            )
            return self._cut(size, lambda whole: func(*given, size=whole, **options))
        shape = torch.broadcast_shapes(*(a.shape for a in args if isinstance(a, Tensor)))
        dim = self._row_dim(shape)
        if dim is None:
            return func(*args, **options)
        given = [self._padded(a.expand(shape), dim) if isinstance(a, Tensor) else a for a in args]
        return func(*given, **options).narrow(dim, self.rows.start, self.num_rows).clone()

    def _multinomial(self, func: Any, args: Any, options: Any) -> Tensor:
        """Categorical draws come flattened, with the particles before the rows."""
        weights, *rest = args
        if weights.dim() != 2 or len(weights) % self.num_rows:
            return func(*args, **options)
        by_row = weights.unflatten(0, (-1, self.num_rows))
        drawn = func(self._padded(by_row, 1).flatten(0, 1), *rest, **options)
        own = drawn.unflatten(0, (-1, self.total)).narrow(1, self.rows.start, self.num_rows)
        return own.flatten(0, 1).clone()

    def _padded(self, value: Tensor, dim: int) -> Tensor:
        """The part's parameters in their place among others."""
        shape = [*value.shape]
        shape[dim] = self.total
        whole = value.narrow(dim, 0, 1).expand(shape).clone()
        whole.narrow(dim, self.rows.start, self.num_rows).copy_(value)
        return whole

    def _own(self, func: Any, args: Any, options: Any) -> Tensor:
        seed = int(torch.randint(2**62, ())) + self.rows.start
        generator = torch.Generator(args[0].device).manual_seed(seed)
        return func(*args, **{**options, "generator": generator})

    def _dropout(self, func: Any, args: Any, options: Any) -> Tensor:
        value, *rest = args
        given = dict(zip(("p", "training", "inplace"), rest, strict=False)) | options
        rate = given.get("p", 0.5)
        if not given.get("training", True) or rate == 0 or rate == 1:
            return func(*args, **options)
        kept = self._cut(value.shape, lambda s: value.new_empty(s).bernoulli_(1 - rate))
        return value * kept.div_(1 - rate)


DRAWS: dict[Any, Callable[[PartNoise, Any, Any, Any], Tensor]] = {
    **{getattr(Tensor, name): PartNoise._in_place for name in IN_PLACE},
    **dict.fromkeys(SHAPED, PartNoise._shaped),
    **dict.fromkeys(LIKE, PartNoise._like),
    **dict.fromkeys(BY_VALUE, PartNoise._by_value),
    **dict.fromkeys((torch.multinomial, Tensor.multinomial), PartNoise._multinomial),
    **dict.fromkeys(OWN, PartNoise._own),
    F.dropout: PartNoise._dropout,
}


def noise_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The state of torch's generators on the CPU and on a CUDA device."""
    return (
        torch.get_rng_state(),
        torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    )


def set_noise_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    """Go back to a state that `noise_state` gave."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
