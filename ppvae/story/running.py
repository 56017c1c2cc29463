r"""Running Pyro programs without side effects: parameters stay in modules, seeds are arguments."""

__all__ = [
    "PARTICLES",
    "TensorDict",
    "eval_mode",
    "isolated",
    "local_params",
    "particle_plate",
    "reference_tensor",
    "run",
    "run_particles",
    "seeded",
    "seeded_eval",
]

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, Self, TypeVar

import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from torch import Tensor, nn

from ppvae.data import reference_tensor

TensorDict = dict[str, Tensor]

# Name of the plate that holds the particles; it stands left of all the story's own plates.
PARTICLES = "_particles"


@contextmanager
def local_params(*modules: nn.Module) -> Iterator[None]:
    """Run Pyro modules on their own parameters; the global parameter store is neither read nor
    written.

    Arguments:
        modules: The modules that will run. Pyro gives its contexts room for local parameters only
            when the setting is on while they are built; here it is given to those that were built
            before.
    """
    for module in modules:
        for part in _parts_of(module):
            if isinstance(part, PyroModule) and not hasattr(part._pyro_context, "param_state"):
                part._pyro_context.param_state = {"params": {}, "constraints": {}}
    with pyro.settings.context(module_local_params=True):
        yield


def _parts_of(module: nn.Module) -> Iterator[nn.Module]:
    """A module with all its parts, and those that an adopted program borrows."""
    for root in (module, *getattr(module, "borrowed", ())):
        yield from root.modules()


def run(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a module, without Pyro's parameter statements where they would serve nobody.

    On local parameters a PyroModule still announces every parameter that it reads, which small
    training steps feel. A module without random weights (`PyroSample`) runs the same without.
    """
    if pyro.settings.get("module_local_params") and not _has_random_weights(module):
        return nn.Module.__call__(module, *args, **kwargs)
    return module(*args, **kwargs)


def _has_random_weights(module: nn.Module) -> bool:
    return any(isinstance(m, PyroModule) and m._pyro_samples for m in module.modules())


def particle_plate(num_particles: int, dim: int) -> pyro.plate:
    """The plate of `num_particles` independent draws, at batch dimension `dim` (negative)."""
    return pyro.plate(PARTICLES, num_particles, dim=dim)


class Stackable(Protocol):
    """What a run of one particle leaves, which can be put beside others."""

    @classmethod
    def stacked(cls, each: Sequence[Self]) -> Self:
        """Runs of one particle each as one run of all of them."""


T = TypeVar("T", bound=Stackable)


def run_particles(
    run_once: Callable[[TensorDict, int, int], T],
    values: TensorDict,
    particle_dim: int,
    takes_particles: bool,
    num_particles: int | None = None,
) -> T:
    """Run a program for all particles at once, or once for each where it does not accept a particle
    dimension.

    Arguments:
        run_once: From values, the number of particles and the dimension of their plate (0 for none)
            to what is kept.
        values: Values that are fixed in the run, name -> `(S, *)`.
        particle_dim: Where the plate of particles stands.
        takes_particles: Whether the program must accept particles; then its error is raised.
        num_particles: S; by default that of `values`, 1 where there are none.
    """
    if num_particles is None:
        num_particles = len(next(iter(values.values()))) if values else 1
    try:
        with particle_plate(num_particles, particle_dim):
            return run_once(values, num_particles, particle_dim)
    except (RuntimeError, ValueError, IndexError):
        if takes_particles:
            raise
    each = [run_once({k: v[s] for k, v in values.items()}, 1, 0) for s in range(num_particles)]
    return type(each[0]).stacked(each)


@contextmanager
def seeded_eval(seed: int | None, *modules: nn.Module) -> Iterator[None]:
    """Score and sample reproducibly: as `seeded`, with the modules in evaluation mode and Pyro's
    argument checks off.

    The checks are off because a sampler may propose values of no density, which it rejects; data
    are checked where they come in.

    Arguments:
        seed: Seed of the block; None draws from the global generators.
        modules: The modules that run.
    """
    with ExitStack() as stack:
        stack.enter_context(seeded(seed, *modules))
        stack.enter_context(pyro.validation_enabled(False))
        for module in modules:
            stack.enter_context(eval_mode(module))
        yield


@contextmanager
def isolated() -> Iterator[None]:
    """Run a program as if no other ran around it: no handler sees it, and every plate's dimension
    is free.

    For a guide that scores the story on the way to its own draws, under whatever plates its caller
    has opened. Pyro offers `block` for the handlers but nothing for the plates, so that both of its
    stacks are set aside here.
    """
    stacks: tuple[list[Any], ...] = (_PYRO_STACK, _DIM_ALLOCATOR._stack)
    kept = [list(stack) for stack in stacks]
    for stack in stacks:
        stack.clear()
    try:
        yield
    finally:
        for stack, items in zip(stacks, kept, strict=True):
            stack[:] = items


@contextmanager
def seeded(seed: int | None, *modules: nn.Module) -> Iterator[None]:
    """Draw reproducibly from `seed` inside the block and leave the global generators as they were.

    `seed=None` draws from the global generators. `modules` tell which CUDA devices take part.
    """
    if seed is None:
        yield
        return
    devices = {t.device for m in modules for t in (reference_tensor(m),) if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        torch.manual_seed(seed)
        yield


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Run a module in evaluation mode (no dropout, no running statistics) and put every part back
    after it.

    Parts are restored one by one: a part that was frozen in evaluation mode stays so.
    """
    modes = {part: part.training for part in _parts_of(module)}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
