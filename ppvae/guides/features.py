r"""The encoder's input: a batch as one tensor, missing entries filled and marked; its features."""

__all__ = ["Features"]

from collections.abc import Collection

import torch
from torch import Size, Tensor, nn

from ppvae.nets import default_encoder, num_features
from ppvae.story import TensorDict, has_missing

MIN_ROWS_TO_STANDARDISE = 10
FAR = 10.0


class Features(nn.Module):
    """From a batch to the encoder's features.

    One key is passed in its own shape; several are flattened and joined. Entries that are not all
    in [0, 1] are standardised with the mean and standard deviation of `batch`; beyond `FAR`
    standard deviations they grow as a logarithm, so that what networks extrapolate stays finite
    behind a story's exp. Where `batch` has missing values (NaN), they are filled with the mean and
    a mask is appended (as further channels, for images).

    Arguments:
        batch: Rows that show shapes, ranges and missing keys, name -> `(B, *event)`.
        encoder: From the joined input to `(B, features)`; None chooses by shape.
        hidden: Hidden widths of the default encoder.
        masked: Keys with missing values, where `batch` is only the head of the data.
        denoising: Standard deviation of the noise that is added to standardised entries in
            training.

    Raises:
        ValueError: If `denoising` is negative.
    """

    def __init__(
        self,
        batch: TensorDict,
        encoder: nn.Module | None,
        hidden: tuple[int, ...],
        masked: Collection[str] = (),
        denoising: float = 0.0,
    ) -> None:
        super().__init__()
        self.standardised: set[str] = set()
        if not denoising >= 0:
            raise ValueError(f"expected denoising of at least 0, got {denoising}")
        self.denoising = denoising
        self.shapes = {k: v.shape[1:] for k, v in batch.items()}
        self.masked = {k for k, v in batch.items() if k in masked or has_missing(v)}
        for key, value in batch.items():
            loc, scale = _moments(value)
            self.register_buffer(f"{_attribute(key)}_loc", loc)
            self.register_buffer(f"{_attribute(key)}_scale", scale)
        find_standardised(self)
        self.register_load_state_dict_post_hook(find_standardised)
        inputs = self.inputs({k: v[:2] for k, v in batch.items()})
        if encoder is None:
            encoder = default_encoder(Size(inputs.shape[1:]), hidden)
        self.encoder = encoder.to(inputs)
        self.num_features = num_features(encoder, inputs)

    def forward(self, batch: TensorDict) -> Tensor:
        """Name -> `(B, *event)` to `(B, features)`."""
        return self.encoder(self.inputs(batch))

    def inputs(self, batch: TensorDict) -> Tensor:
        """The encoder's input, `(B, *)`."""
        if set(batch) != set(self.shapes):
            raise ValueError(
                f"expected a batch with the keys {sorted(self.shapes)} that the guide was built "
                f"for, got {sorted(batch)}; build a guide for these data"
            )
        parts = [self._input_of(key, batch[key]) for key in self.shapes]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([p.flatten(1) for p in parts], -1)

    def _input_of(self, key: str, value: Tensor) -> Tensor:
        if value.shape[1:] != self.shapes[key]:
            raise ValueError(
                f"'{key}': expected rows of shape {tuple(self.shapes[key])}, for which the guide "
                f"was built, got {tuple(value.shape[1:])}"
            )
        loc, scale = (getattr(self, f"{_attribute(key)}_{part}") for part in ("loc", "scale"))
        scaled = (value - loc) / scale
        if key in self.standardised:
            scaled = _compress_far(scaled)
        if self.training and self.denoising:
            scaled = scaled + self.denoising * torch.randn_like(scaled)
        if value.dim() == 1:
            scaled = scaled.unsqueeze(-1)
        if key not in self.masked:
            if has_missing(scaled, key):
                raise ValueError(
                    f"'{key}': expected no missing values (NaN), as in the data that the guide was "
                    "built for; build the guide on data that miss some"
                )
            return scaled
        missing = torch.isnan(scaled)
        filled = torch.where(missing, torch.zeros_like(scaled), scaled)
        channel = -1 if scaled.dim() < 4 else 1
        return torch.cat([filled, missing.to(scaled)], channel)


def find_standardised(features: Features, _: object = None) -> None:
    """Which keys are standardised, as the buffers say; asked again after others are loaded."""
    features.standardised = {
        key
        for key in features.shapes
        if bool((getattr(features, f"{_attribute(key)}_loc") != 0).any())
        or bool((getattr(features, f"{_attribute(key)}_scale") != 1).any())
    }


def _attribute(key: str) -> str:
    """A buffer's name may hold no dot, a site's may."""
    return key.replace(".", "/")


def _compress_far(scaled: Tensor) -> Tensor:
    """The identity up to `FAR`, and a logarithm of the same slope there beyond; NaN stays NaN."""
    times = (scaled.abs() / FAR).clamp(min=1)
    return torch.where(times > 1, scaled.sign() * FAR * (1 + times.log()), scaled)


def _moments(value: Tensor) -> tuple[Tensor, Tensor]:
    """Location and scale of each entry; 0 and 1 for values in [0, 1] and for too few rows."""
    present = ~torch.isnan(value)
    count = present.sum(0)
    filled = torch.where(present, value, torch.zeros_like(value))
    if len(value) < MIN_ROWS_TO_STANDARDISE or bool(((filled >= 0) & (filled <= 1)).all()):
        return torch.zeros_like(value[0]), torch.ones_like(value[0])
    loc = filled.sum(0) / count.clamp(min=1)
    centred = torch.where(present, value - loc, torch.zeros_like(value))
    scale = (centred.square().sum(0) / count.clamp(min=1)).sqrt()
    return loc, torch.where(scale > 1e-6, scale, torch.ones_like(scale))
