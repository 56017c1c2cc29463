r"""Files that commands write: numbers that other programs read, and pictures where rows are pictures."""

__all__ = ["check_files", "write_numbers", "write_picture"]

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from ppvae.diagnostics.finding import number_names
from ppvae.training import distributed
from ppvae.viz.plots import image_grid, picture_shape

DOTS_PER_INCH = 160


def check_files(picture: Path, numbers: Path) -> None:
    """Refuse names of files that cannot be written, before anything is trained.

    Raises:
        ValueError: If an ending is unknown, or a folder does not exist.
    """
    for option, path, suffixes in (
        ("--out", picture, (".png",)), ("--table", numbers, (".npz", ".csv")),
    ):  # fmt: skip
        if path.suffix not in suffixes or not path.parent.is_dir():
            raise ValueError(
                f"expected {option} to be a {' or '.join(suffixes)} file in a folder that exists, got '{path}'"
            )


def write_numbers(
    path: Path, tensors: Mapping[str, Tensor], labels: Mapping[str, list[str]]
) -> None:
    """Write named tensors with as many rows each.

    Arguments:
        path: An `.npz` file, one array for each name; or a `.csv` file, one line a row and one column for each number.
        tensors: Name -> `(n, *)`.
        labels: Name -> words, one a row, that stand before the numbers.
    """
    if not distributed.is_main_process():
        return
    arrays = {name: value.cpu().numpy() for name, value in tensors.items()}
    if path.suffix == ".csv":
        columns: dict[str, np.ndarray] = {}
        for name, array in arrays.items():
            names = number_names({name: array.shape[1:]})
            columns |= dict(zip(names, array.reshape(len(array), -1).T, strict=True))
        import pandas as pd

        pd.DataFrame({**labels, **columns}).to_csv(path, index=False)
        return
    # Not np.savez, whose own arguments would be in the way of sites with their names.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in {**{k: np.array(v) for k, v in labels.items()}, **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def write_picture(
    path: Path, rows: Mapping[str, Tensor], title: str, shape: tuple[int, ...] | None = None
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
        shape = shape or picture_shape(next(iter(rows.values())))
    except ValueError as reason:
        return f"no pictures: {str(reason).rstrip('.')}"
    if distributed.is_main_process():
        grid = image_grid({k: v.clamp(0, 1) for k, v in rows.items()}, shape, title)
        grid.savefig(path, dpi=DOTS_PER_INCH)
    return f"pictures: {path}"
