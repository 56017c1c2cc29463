r"""Rows of images, one above the other: data, reconstructions, samples, imputations."""

__all__ = ["colour_images", "image_grid", "picture_shape"]

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from .style import BLUE, to_numpy

LEAST_SIDE = 4  # a vector of 9 numbers is hardly a picture


def image_grid(
    rows: Mapping[str, Tensor], shape: tuple[int, ...] | None = None, title: str = ""
) -> Figure:
    r"""Labelled rows of images, such as data above the reconstructions of each guide.

    Arguments:
        rows: Label to images with values in [0, 1], with shape :math:`(n, D)`, :math:`(n, H, W)` or
            :math:`(n, C, H, W)`, C = 1 or 3. NaN is a missing pixel and drawn in blue.
        shape: :math:`(H, W)` or :math:`(C, H, W)` of one image; needed for vectors that are not
            square.
        title: Heading of the figure.

    Returns:
        One axis per label that holds its images side by side, one white pixel apart.

    Raises:
        ValueError: If there is no row or image, the shape cannot be told or does not fit, the sizes
            differ between rows, or a value lies outside [0, 1].
    """
    if not rows:
        raise ValueError("expected at least one labelled row of images; got none.")
    images = {label: colour_images(label, to_numpy(x), shape) for label, x in rows.items()}
    sizes = {label: x.shape[1:3] for label, x in images.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"expected one height and width in all rows; got {sizes}.")
    count = max(len(x) for x in images.values())
    height, width = next(iter(sizes.values()))
    inches = min(0.9, 10.0 / count)
    row_inches = max(0.3, inches * height / width)
    figure = Figure(
        figsize=(1.8 + inches * count, 0.6 + (row_inches + 0.08) * len(rows)),
        layout="compressed",
    )
    grid = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (label, x) in zip(grid, images.items(), strict=True):
        axes.imshow(_strip(x, count), interpolation="nearest")
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if any(np.isnan(x).any() for x in images.values()):
        grid[-1].set_xlabel("blue: missing pixels")
    figure.suptitle(title)
    return figure


def picture_shape(rows: Tensor) -> tuple[int, ...]:
    r"""Shape of one picture, where rows are pictures with grey values or colours in [0, 1].

    Arguments:
        rows: Rows of data, :math:`(n, *)`; NaN is a missing pixel.

    Returns:
        :math:`(H, W)` or :math:`(C, H, W)`, for `image_grid`.

    Raises:
        ValueError: If they are no pictures; it says why.
    """
    shape = tuple(rows.shape[1:])
    side = math.isqrt(math.prod(shape))
    if len(shape) == 1 and side >= LEAST_SIDE and side**2 == shape[0]:
        shape = (side, side)
    elif len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"rows of shape {shape} are no pictures (a square, or channels first).")
    if bool((rows < 0).any()) or bool((rows > 1).any()):
        raise ValueError(
            "the values of the rows are not all in [0, 1], so they are no grey values."
        )
    return shape


def colour_images(label: str, values: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """Images of any accepted shape as `(n, H, W, 3)`; `label` names them in an error."""
    if values.ndim < 2 or not values.size:
        raise ValueError(
            f"expected images of shape (n, D), (n, H, W) or (n, C, H, W) in row {label!r}; "
            f"got {values.shape}."
        )
    if (values < 0).any() or (values > 1).any():
        raise ValueError(
            f"expected values in [0, 1] in row {label!r}; got {np.nanmin(values):.3g} to "
            f"{np.nanmax(values):.3g}. Rescale or clamp them first."
        )
    shape = shape or _guess_shape(label, values.shape[1:])
    if math.prod(shape) != values[0].size or len(shape) not in (2, 3):
        raise ValueError(
            f"expected images that fit shape {tuple(shape)} in row {label!r}; got "
            f"{values.shape[1:]}. Pass shape=(H, W) or (C, H, W)."
        )
    channels = shape[0] if len(shape) == 3 else 1
    if channels not in (1, 3):
        raise ValueError(f"expected 1 or 3 channels in row {label!r}; got {channels}.")
    images = values.reshape(len(values), channels, *shape[-2:]).transpose(0, 2, 3, 1)
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _guess_shape(label: str, event_shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(event_shape) > 1:
        return event_shape
    side = math.isqrt(event_shape[0])
    if side**2 != event_shape[0]:
        raise ValueError(
            f"expected a square number of pixels in row {label!r}; got {event_shape[0]}. "
            "Pass shape=(H, W)."
        )
    return side, side


def _strip(images: np.ndarray, count: int) -> np.ndarray:
    # (n, H, W, 3) -> (H, count * (W + 1) - 1, 3), white where there is no image
    n, height, width, _ = images.shape
    strip = np.ones((height, count, width + 1, 3))
    strip[:, :n, :width] = np.where(np.isnan(images), to_rgb(BLUE), images).swapaxes(0, 1)
    return strip.reshape(height, -1, 3)[:, :-1]
