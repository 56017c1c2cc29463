r"""Ordinary Pyro pairs, `model(x)` and `guide(x)`, as a story and a guide."""

__all__ = ["AdoptedGuide", "AdoptedStory", "adopt"]

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from ppvae.story.batch import Batch, as_batch, num_rows_of
from ppvae.story.running import TensorDict, local_params, reference_tensor

Program = Callable[..., Any]


class _KeepParams(Messenger):
    """Serve `pyro.param` and `pyro.module` from a module, not from the global store."""

    def __init__(self, owner: "_Program") -> None:
        super().__init__()
        self.owner = owner

    def _pyro_param(self, msg: Any) -> None:
        if getattr(msg["fn"], "__self__", None) is not pyro.get_param_store():
            return  # a PyroModule's own parameter: it comes with its value
        args, kwargs = msg["args"], msg["kwargs"]
        init = args[1] if len(args) > 1 else kwargs.get("init_tensor")
        constraint = args[2] if len(args) > 2 else kwargs.get("constraint", constraints.real)
        msg["value"] = self.owner.param(args[0], init, constraint)
        msg["done"] = msg["stop"] = True

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        if msg["done"] and isinstance(value, nn.Parameter):
            self.owner.keep(msg["name"], value)
        elif hasattr(value, "unconstrained"):  # a PyroParam
            self.owner.keep(msg["name"], value.unconstrained())


class _Program(PyroModule):
    """A Pyro callable whose parameters are registered here the first time it runs.

    Attributes:
        borrowed: The module that a method belongs to, or those that a function names. They may hold
            the other program's networks too, so that they are no part of this module, but move and
            change mode with it.
        row_shapes: Shapes of the rows that the program met, without their number.
    """

    def __init__(self, program: Program, name: str) -> None:
        super().__init__(name=name)
        self.adopted = nn.ParameterDict()
        self.row_shapes: dict[str, torch.Size] = {}
        # In tuples: what is borrowed is not registered, and looking `adopted` up costs no Pyro
        # message.
        self.borrowed = _modules_of(program)
        self._program, self._own = (program,), (self.adopted,)
        if isinstance(program, nn.Module):
            self.module = program
        for part in self.borrowed[:1]:
            self.register_buffer("like", reference_tensor(part).new_empty(0), persistent=False)

    def param(self, name: str, init: Any, constraint: constraints.Constraint) -> Tensor:
        """The parameter `name`, made from `init` when it is first asked for."""
        if isinstance(init, nn.Parameter):
            self.keep(name, init)
            return init
        key, own = _attribute(name), self._own[0]
        if key not in own:
            if init is None:
                raise ValueError(
                    f"expected pyro.param('{name}') to give an initial value, got none"
                )
            value = init() if callable(init) else init
            own[key] = nn.Parameter(transform_to(constraint).inv(value.detach()).clone())
        return transform_to(constraint)(own[key])

    def keep(self, name: str, parameter: nn.Parameter) -> None:
        """Register a network's own parameter."""
        key, own = _attribute(name), self._own[0]
        if key not in own:
            module = self._modules.get("module")
            if module is None or all(parameter is not p for p in module.parameters()):
                own[key] = parameter
        elif own[key] is not parameter:
            raise ValueError(
                f"expected one parameter named '{name}', got two: give networks distinct names; "
                "of plain functions a copy still runs the original's networks, so adopt methods "
                "of a module to copy them"
            )

    def train(self, mode: bool = True) -> "_Program":
        for part in self.borrowed:
            part.train(mode)
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> "_Program":
        for part in self.borrowed:
            part._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """`pyro.module` warns of each frozen parameter; freezing a story is no fault here."""
        if all(p.requires_grad for p in self._own[0].values()):
            yield
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was not registered in the param store")
            yield

    def run(self, batch: Batch) -> None:
        """Call the program on rows, its arguments by the batch's keys."""
        batch = as_batch(batch)
        self.row_shapes = {k: v.shape[1:] for k, v in batch.items()}
        program = self._program[0]
        arguments = [
            p.name
            for p in inspect.signature(program).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        with _KeepParams(self), self._quiet():
            if set(batch) <= set(arguments):
                program(**batch)
            elif len(batch) == 1:
                program(*batch.values())
            else:
                raise ValueError(
                    f"expected data with the keys of the model's arguments {arguments}, got "
                    f"{list(batch)}"
                )


class AdoptedStory(_Program):
    """A Pyro model `model(x)` that observes its data itself, as a story."""

    def run_conditioned(self, batch: Batch) -> None:
        """Run the model on rows; its own `obs=` conditions it."""
        self.run(batch)

    def forward(self, n: int, **inputs: Tensor) -> None:
        """Generate `n` rows: the model runs with its observations taken away."""
        if not inputs and not self.row_shapes:
            raise ValueError(
                "expected to know the shape of a row before generating with an adopted model; "
                "call adopt(model, guide, example=rows)"
            )
        if inputs and num_rows_of(inputs) != n:
            raise ValueError(f"expected {n} rows of inputs, got {num_rows_of(inputs)}")
        like = reference_tensor(self)
        shapes = {} if inputs else self.row_shapes
        blank: TensorDict = {k: like.new_zeros((n, *shape)) for k, shape in shapes.items()}
        with poutine.uncondition():
            self.run({**blank, **inputs})


class AdoptedGuide(_Program):
    """A Pyro guide `guide(x)`, called with a batch."""

    def forward(self, batch: Batch) -> None:
        self.run(batch)


def _modules_of(program: Program) -> tuple[nn.Module, ...]:
    """The modules that a method belongs to, or that a function names."""
    if inspect.isfunction(program):
        names = inspect.getclosurevars(program)
        found = {**names.globals, **names.nonlocals}.values()
        return tuple(part for part in found if isinstance(part, nn.Module))
    owner = getattr(program, "__self__", None)
    return (owner,) if isinstance(owner, nn.Module) else ()


def _attribute(name: str) -> str:
    """A parameter's name may hold no dot."""
    return name.replace(".", "/")


def adopt(
    model: Program, guide: Program | None = None, *, example: Batch | None = None
) -> tuple[AdoptedStory, AdoptedGuide | None]:
    """Turn an ordinary Pyro pair into a story and a guide for every function of the library.

    The model holds its rows in a plate called `data` and observes its data by `obs=`, as in Pyro's
    tutorials. Parameters of `pyro.module` and `pyro.param` move into the returned modules; the
    global parameter store stays empty.

    Arguments:
        model: `model(x)`: a function, a method, or a module.
        guide: `guide(x)`, likewise.
        example: Rows like the data, name -> `(B, *event)`: registers the parameters at once and
            lets the story generate. Without it, both happen when the pair first meets data.

    Returns:
        The story, and the guide (None without one).
    """
    story = AdoptedStory(model, "story")
    adopted = None if guide is None else AdoptedGuide(guide, "guide")
    if example is not None:
        batch = {k: v[:2] for k, v in as_batch(example).items()}
        with torch.no_grad(), poutine.block():
            for program in filter(None, (story, adopted)):
                with local_params(program):
                    program.run(batch)
    return story, adopted
