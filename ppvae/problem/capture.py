r"""A function of tensors captured as one operator graph, and replayed without Pyro and autograd.

The graph holds the operators that one call ran, gradients among them. Parameters and buffers are
parts of it by reference: a replay sees the weights of the moment, and changes buffers as the plain
function does. Random numbers are operators too: each replay draws anew.
"""

__all__ = ["CAPTURE_MODES", "Captured"]

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

CAPTURE_MODES: dict[str, str] = {
    "off": "call the function as it is",
    "replay": "replay its operators one by one",
    "inductor": "compile its operators with Inductor; needs a C++ compiler, and time",
}
# What the outputs of plain and captured function may differ by, relative to the largest number.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}

Function = Callable[..., tuple[Tensor, ...]]


class Captured:
    """A function that captures itself at its first call for each set of shapes.

    At that call the captured outputs are compared with the plain ones for the same random numbers.
    Where they differ, or the function cannot be captured (its control flow looks at values), the
    plain function is called from then on, and `note` says why.

    Arguments:
        function: From tensors to a tuple of tensors; it may use parameters, change buffers of
            `modules` and draw random numbers.
        modules: The modules whose buffers it may change.
        mode: A key of `CAPTURE_MODES`.

    Attributes:
        note: Why the plain function is called; empty where it is captured.
    """

    def __init__(self, function: Function, modules: Sequence[nn.Module], mode: str) -> None:
        if mode not in CAPTURE_MODES:
            raise ValueError(f"expected a mode among {', '.join(CAPTURE_MODES)}; got '{mode}'")
        self.function, self.modules, self.mode = function, modules, mode
        self.note = ""
        self._graphs: dict[tuple[Any, ...], Function] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's outputs, detached."""
        if self.mode == "off" or self.note:
            return self.function(*inputs)
        key = tuple((value.shape, value.dtype, value.device) for value in inputs)
        graph = self._graphs.get(key)
        if graph is None:
            return self._first_call(key, inputs)
        with torch.no_grad():
            return graph(*inputs)

    def _first_call(self, key: tuple[Any, ...], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Capture, run both ways from one state, and keep the graph if they agree."""
        before = self._state()
        plain = self.function(*inputs)
        after = self._state()
        try:
            self._restore(before)
            graph = _graph_of(self.function, inputs, self.mode)
            self._restore(before)
            with torch.no_grad():
                captured = graph(*inputs)
            self._compare((*plain, *after[0]), (*captured, *self._state()[0]))
            self._graphs[key] = graph
        except Exception as error:  # whatever torch cannot capture, the plain function still can do
            self.note = f"not captured: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        self._restore(after)
        return plain

    def _compare(self, plain: Sequence[Tensor], captured: Sequence[Tensor]) -> None:
        for one, other in zip(plain, captured, strict=True):
            if not one.is_floating_point():
                same = bool((one == other).all())
            else:
                room = TOLERANCE.get(one.dtype, 1e-2) * (1e-6 + float(one.abs().max()))
                same = bool(((one - other).abs() <= room).logical_or(one.isnan()).all())
            if not same:
                raise ValueError("the captured function gives other numbers than the plain one")

    def _state(self) -> tuple[list[Tensor], Tensor, Tensor | None]:
        buffers = [b.detach().clone() for m in self.modules for b in m.buffers()]
        on_cuda = any(b.is_cuda for b in buffers)
        return buffers, torch.get_rng_state(), torch.cuda.get_rng_state() if on_cuda else None

    @torch.no_grad()
    def _restore(self, state: tuple[list[Tensor], Tensor, Tensor | None]) -> None:
        buffers, noise, device_noise = state
        own = [b for m in self.modules for b in m.buffers()]
        for buffer, value in zip(own, buffers, strict=True):
            buffer.copy_(value)
        torch.set_rng_state(noise)
        if device_noise is not None:
            torch.cuda.set_rng_state(device_noise)


def _graph_of(function: Function, inputs: Sequence[Tensor], mode: str) -> Function:
    """The operators of one call, as a function of the inputs."""
    from torch.fx.experimental.proxy_tensor import make_fx  # costs seconds: torch._dynamo

    with _same_validation():
        graph: Any = make_fx(lambda *values: function(*values), tracing_mode="real")(*inputs)
        graph.graph.eliminate_dead_code()
        constants = _constants_as_inputs(graph)
        if mode == "inductor":
            graph = torch.compile(graph, fullgraph=True)
            with torch.no_grad():
                graph(*inputs, *constants)
        run = graph.forward if mode == "replay" else graph
    return lambda *values: run(*values, *constants)


def _constants_as_inputs(graph: Any) -> list[Tensor]:
    """Make parameters and buffers inputs of the graph, since reading attributes takes time.

    Returns:
        What to give in their place: the tensors themselves.
    """
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    constants: dict[str, Tensor] = {}
    places: dict[str, Any] = {}
    for node in [node for node in graph.graph.nodes if node.op == "get_attr"]:
        if node.target not in places:
            last = [*inputs, *places.values()][-1]
            with graph.graph.inserting_after(last):
                places[node.target] = graph.graph.placeholder(f"constant_{len(places)}")
            constants[node.target] = getattr(graph, node.target)
        node.replace_all_uses_with(places[node.target])
        graph.graph.erase_node(node)
    graph.recompile()
    return list(constants.values())


@contextmanager
def _same_validation() -> Iterator[None]:
    """Keep torch's check of distributions' arguments, which torch.compile switches off."""
    before = Distribution._validate_args
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
