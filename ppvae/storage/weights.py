r"""Weights of stories and guides as safetensors files, which hold no code."""

__all__ = ["load", "load_modules", "read_metadata", "read_tensors", "save", "save_modules"]

import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ppvae.storage.files import READABLE, UNFINISHED, sync
from ppvae.storage.fingerprint import source_hash

SOURCE = "source"  # under which a file of weights keeps the fingerprint of its program


def save(path: str | os.PathLike[str], story: nn.Module, guide: nn.Module | None = None) -> None:
    """Write the weights of a story, and of its guide, as safetensors files.

    Arguments:
        path: A folder, made if need be; it gets `story.safetensors` and `guide.safetensors`.
        story: The story.
        guide: Its guide.
    """
    folder = Path(path).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    save_modules(folder, {"story": story} if guide is None else {"story": story, "guide": guide})


def load(path: str | os.PathLike[str], story: nn.Module, guide: nn.Module | None = None) -> None:
    """Read weights that `save` wrote, and leave story and guide in evaluation mode.

    A warning says where the source of either has changed since.

    Arguments:
        path: The folder.
        story: A story built as the saved one was.
        guide: A guide built as the saved one was.

    Raises:
        ValueError: If a file is missing or damaged, or a tensor is missing, unknown, or of another
            shape or type; then no module has been touched.
    """
    folder = Path(path).expanduser()
    modules = {"story": story} if guide is None else {"story": story, "guide": guide}
    weights = {name: read_tensors(folder / f"{name}.safetensors") for name in modules}
    load_modules(folder, modules, weights)
    for module in modules.values():
        module.eval()


def save_modules(folder: Path, modules: Mapping[str, nn.Module]) -> None:
    """Write parameters and buffers of each module as `NAME.safetensors`, each file as a whole."""
    for name, module in modules.items():
        # cloned, because safetensors refuses tensors that share memory (tied weights, views)
        tensors = {
            key: value.detach().clone(memory_format=torch.contiguous_format)
            for key, value in module.state_dict().items()
        }
        file = folder / f"{name}.safetensors"
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder) as place:
            written = Path(place) / file.name
            save_file(tensors, written, metadata={SOURCE: source_hash(module)})
            os.chmod(written, READABLE)
            sync(written)
            os.replace(written, file)


def load_modules(
    folder: Path, modules: Mapping[str, nn.Module], weights: Mapping[str, dict[str, Tensor]]
) -> None:
    """Put weights that were read from a folder into modules, once all of them fit.

    Raises:
        ValueError: If a tensor is missing, unknown, or of another shape or type, naming it.
    """
    for name, module in modules.items():
        _check_fits(weights[name], module, folder / f"{name}.safetensors")
    for name, module in modules.items():
        _warn_if_changed(folder / f"{name}.safetensors", module)
        module.load_state_dict(weights[name])


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ValueError: If it is missing or damaged.
    """
    if not file.is_file():
        raise ValueError(f"expected the weights in {file}, got no such file; see ppvae.save")
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"expected a safetensors file, got {file}: {error}") from error


def read_metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself beside its tensors.

    Raises:
        ValueError: If it is missing or damaged.
    """
    try:
        with safe_open(file, "pt") as content:
            return content.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"expected a safetensors file, got {file}: {error}") from error


def _warn_if_changed(file: Path, module: nn.Module) -> None:
    """Warn where a module's program is not the one whose weights the file holds."""
    before, now = read_metadata(file).get(SOURCE), source_hash(module)
    if before and now and before != now:
        warnings.warn(
            f"the source of {type(module).__name__} has changed since {file} was written: its "
            "weights fit by shape, but may mean something else; go back to the old source, or "
            "train anew",
            stacklevel=4,
        )


def _check_fits(weights: dict[str, Tensor], module: nn.Module, file: Path) -> None:
    """Check names, shapes and types of the tensors read from `file` against a module's."""
    own = module.state_dict()
    missing, unknown = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    if missing or unknown:
        found = [f"none for {missing[:3]}"] if missing else []
        found += [f"also {unknown[:3]}"] if unknown else []
        raise ValueError(
            f"expected in {file} the tensors of {type(module).__name__}, got {', '.join(found)}; "
            "build the module as it was saved"
        )
    for name, tensor in own.items():
        if weights[name].shape != tensor.shape or weights[name].dtype != tensor.dtype:
            raise ValueError(
                f"tensor '{name}': expected {_form(tensor)} in {file}, got {_form(weights[name])}; "
                "build the module as it was saved"
            )


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
