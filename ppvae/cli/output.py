r"""What commands print, and the files that they write."""

__all__ = [
    "TYPED",
    "check_path",
    "save_figure",
    "save_table",
    "say",
    "show",
    "write_numbers",
    "write_picture",
]

import json
import zipfile
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ppvae
from ppvae.cli.options import Output

if TYPE_CHECKING:
    from torch import Tensor

DOTS_PER_INCH = 160
# The words of the command that runs, for its report.
TYPED: ContextVar[tuple[str, ...]] = ContextVar("typed", default=())
FIGURES = (".png", ".pdf", ".svg")


def is_main_process() -> bool:
    """Whether this process prints and writes: the only one, or rank 0 under torchrun."""
    from ppvae.training import distributed

    return distributed.is_main_process()


def show(result: Any, output: Output, *lines: str, table: Any = None) -> None:
    """Print a result: as JSON, or in words, or as a table.

    Arguments:
        result: A record of numbers, or plain data.
        output: How.
        lines: The result in words.
        table: What to print where there are no words; the result itself by default.
    """
    if output.json:
        print(json.dumps(_as_plain(result), indent=2))
    elif lines:
        print(*lines, sep="\n")
    else:
        from ppvae.viz.tables import show as print_table

        print_table(result if table is None else table)


def say(*lines: str, output: Output) -> None:
    """Print lines; nothing where the result is asked for as JSON."""
    if lines and not output.json:
        print(*lines, sep="\n")


def _as_plain(value: Any) -> Any:
    """Plain data of a result: a frame row by row, an estimate by its value and standard error."""
    if hasattr(value, "to_pandas"):
        return json.loads(value.to_pandas().reset_index().to_json(orient="records"))
    if isinstance(value, ppvae.Estimate):
        mean = value.mean() if value.value.dim() else value
        return {"value": float(mean.value), "std_error": float(mean.std_error)}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _as_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_as_plain(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {k: _as_plain(getattr(value, k)) for k in vars(value)}
    return value


def check_path(option: str, path: Path | None, endings: Sequence[str] = FIGURES) -> None:
    """Refuse the name of a file that cannot be written, before anything is trained.

    Raises:
        ValueError: If the ending is unknown, or the folder does not exist.
    """
    if path is not None and (path.suffix not in endings or not path.parent.is_dir()):
        raise ValueError(
            f"expected {option} to be a {' or '.join(endings)} file in a folder that exists, "
            f"got '{path}'"
        )


def write_numbers(
    path: Path, tensors: Mapping[str, "Tensor"], labels: Mapping[str, Sequence[str]]
) -> None:
    """Write named tensors with as many rows each.

    Arguments:
        path: An `.npz` file, one array for each name; or a `.csv` file, one line a row and one
            column for each number.
        tensors: Name -> `(n, *)`.
        labels: Name -> words, one a row, that stand before the numbers.
    """
    import numpy as np
    import pandas as pd

    if not is_main_process():
        return
    arrays = {name: value.cpu().numpy() for name, value in tensors.items()}
    if path.suffix == ".csv":
        columns: dict[str, Any] = {}
        for name, array in arrays.items():
            names = ppvae.diagnostics.finding.number_names({name: array.shape[1:]})
            columns |= dict(zip(names, array.reshape(len(array), -1).T, strict=True))
        pd.DataFrame({**labels, **columns}).to_csv(path, index=False)
        return
    # Not np.savez, whose own arguments would be in the way of sites with their names.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in {**{k: np.array(v) for k, v in labels.items()}, **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def write_picture(
    path: Path, rows: Mapping[str, "Tensor"], title: str, shape: tuple[int, ...] | None = None
) -> str:
    """Write labelled rows of pictures, if the first of them are pictures.

    Arguments:
        path: A `.png` file.
        rows: Label -> `(n, *)`; the first are the data, the others are cut to grey values.
        title: Heading.
        shape: Of one picture; None reads it off the first rows.

    Returns:
        What was written, or why nothing was, in one line; there is nothing to write without rows.
    """
    if not rows:
        return "no pictures: there is nothing of a site x to draw"
    try:
        shape = shape or ppvae.plots.picture_shape(next(iter(rows.values())))
    except ValueError as reason:
        return f"no pictures: {str(reason).rstrip('.')}"
    if is_main_process():
        grid = ppvae.plots.image_grid({k: v.clamp(0, 1) for k, v in rows.items()}, shape, title)
        grid.savefig(path, dpi=DOTS_PER_INCH)
    return f"pictures: {path}"


def save_table(path: Path | None, result: Any, output: Output) -> None:
    """Save the frame of a result as CSV, if a path is given and there is one."""
    if path is not None and result is not None and is_main_process():
        result.to_pandas().to_csv(path)
        say(f"table: {path}", output=output)


def save_figure(path: Path | None, result: Any, output: Output, **options: Any) -> None:
    """Save the figure of a result, if a path is given."""
    if path is not None and is_main_process():
        result.plot(**options).savefig(path, dpi=DOTS_PER_INCH)
        say(f"figure: {path}", output=output)
