r"""Encoders and decoders: torch modules that act on the last dimensions."""

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "SequenceEncoder",
    "default_encoder",
    "hold_norms",
    "num_features",
]

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Size, Tensor, nn
from torch.nn.utils import parametrize


class MLP(nn.Sequential):
    """A multi-layer perceptron over the last dimension.

    Arguments:
        in_features: Length of the input's last dimension.
        out_features: Length of the output's.
        hidden: Widths of the hidden layers.
        activation: Constructor of the non-linearity between layers.
        activate_last: Whether the output passes the non-linearity too (for features, not for
            parameters).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (200, 200),
        activation: Callable[[], nn.Module] = nn.ELU,
        activate_last: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        for wide, narrow in pairwise((in_features, *hidden, out_features)):
            layers += [nn.Linear(wide, narrow), activation()]
        super().__init__(*(layers if activate_last else layers[:-1]))


class ConvEncoder(nn.Module):
    """Images to features by strided convolutions.

    Arguments:
        shape: `(channels, height, width)` of one image.
        features: Length of the output.
        channels: Channels after each halving of height and width.
        activation: Constructor of the non-linearity.
    """

    def __init__(
        self,
        shape: Sequence[int],
        features: int = 200,
        channels: Sequence[int] = (32, 64),
        activation: Callable[[], nn.Module] = nn.ELU,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for narrow, wide in pairwise((shape[0], *channels)):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), activation()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, *shape)).shape[-1]
        self.head = nn.Sequential(nn.Linear(flat, features), activation())

    def forward(self, image: Tensor) -> Tensor:
        """`(*, C, H, W)` to `(*, features)`."""
        lead = image.shape[:-3]
        flat = self.convolutions(image.reshape(-1, *image.shape[-3:]))
        return self.head(flat).reshape(*lead, -1)


class ConvDecoder(nn.Module):
    """Vectors to images: each layer doubles height and width, up to the image's own, and convolves.

    Arguments:
        in_features: Length of the input's last dimension.
        shape: `(channels, height, width)` of one image.
        channels: Channels before each doubling.
        activation: Constructor of the non-linearity.
    """

    def __init__(
        self,
        in_features: int,
        shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        activation: Callable[[], nn.Module] = nn.ELU,
    ) -> None:
        super().__init__()
        self.shape = Size(shape)
        sizes = [(shape[1], shape[2])]
        for _ in channels:
            sizes.insert(0, ((sizes[0][0] + 1) // 2, (sizes[0][1] + 1) // 2))
        self.first = (channels[0], *sizes[0])
        self.head = nn.Sequential(nn.Linear(in_features, Size(self.first).numel()), activation())
        layers: list[nn.Module] = []
        for (wide, narrow), size in zip(pairwise((*channels, shape[0])), sizes[1:], strict=True):
            layers += [nn.Upsample(size), nn.Conv2d(wide, narrow, 3, padding=1), activation()]
        self.convolutions = nn.Sequential(*layers[:-1])

    def forward(self, vector: Tensor) -> Tensor:
        """`(*, in_features)` to `(*, C, H, W)`."""
        small = self.head(vector).reshape(-1, *self.first)
        return self.convolutions(small).reshape(*vector.shape[:-1], *self.shape)


class SequenceEncoder(nn.Module):
    """Sequences to features: the last state of a bidirectional GRU.

    Arguments:
        in_features: Length of one time step.
        features: Length of the output (even).
    """

    def __init__(self, in_features: int, features: int = 200) -> None:
        super().__init__()
        self.gru = nn.GRU(in_features, features // 2, batch_first=True, bidirectional=True)

    def forward(self, sequence: Tensor) -> Tensor:
        """`(B, T, in_features)` to `(B, features)`."""
        _, last = self.gru(sequence)  # (2, B, features / 2)
        return last.transpose(0, 1).flatten(1)


def default_encoder(shape: Size, hidden: Sequence[int] = (200, 200)) -> nn.Module:
    """The encoder that fits a row's shape: a vector, a sequence, or an image.

    Arguments:
        shape: Of one row: `(D,)` vector -> MLP; `(T, D)` sequence -> GRU; `(C, H, W)` image ->
            convolutions; anything else is flattened by the caller.
        hidden: Hidden widths; the last is the number of features.

    Returns:
        A module from `(B, *shape)` to `(B, hidden[-1])`.
    """
    if len(shape) == 3:
        return ConvEncoder(shape, hidden[-1])
    if len(shape) == 2:
        return SequenceEncoder(shape[-1], hidden[-1])
    if len(shape) == 1:
        return MLP(shape[0], hidden[-1], hidden[:-1], activate_last=True)
    raise ValueError(
        f"expected rows of one to three dimensions, got {tuple(shape)}; pass an encoder"
    )


def num_features(encoder: nn.Module, inputs: Tensor) -> int:
    """Length of what `encoder` gives for two rows of `inputs`.

    Raises:
        ValueError: If the output is not one vector a row.
    """
    modes = {part: part.training for part in encoder.modules()}
    encoder.eval()
    with torch.no_grad():
        features = encoder(inputs)
    for part, mode in modes.items():
        part.training = mode
    if features.dim() != 2 or len(features) != len(inputs):
        raise ValueError(
            f"expected an encoder that gives one vector a row, ({len(inputs)}, features); got "
            f"{tuple(features.shape)}"
        )
    return features.shape[-1]


def hold_norms(module: nn.Module, norm: float) -> None:
    r"""Hold the norm of the weights into each unit of linear and convolutional layers, in place.

    Each weight vector becomes :math:`H v / \lVert v \rVert`: what is trained is its direction.

    Arguments:
        module: The module.
        norm: The norm H.

    Raises:
        ValueError: If the norm is not positive.
    """
    if not norm > 0:
        raise ValueError(f"expected a weight_norm above 0, got {norm}")
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            parametrize.register_parametrization(layer, "weight", _Normed(norm))


class _Normed(nn.Module):
    def __init__(self, norm: float) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, weight: Tensor) -> Tensor:
        return (
            self.norm
            * weight
            / weight.flatten(1).norm(dim=1).reshape(-1, *(1,) * (weight.dim() - 1))
        )
