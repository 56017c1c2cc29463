r"""Which rows and entries are missing."""

__all__ = ["missing_as", "missing_rows"]

import torch
from torch import Tensor


def missing_as(value: Tensor, data: Tensor | None) -> Tensor:
    """The value, NaN where the data are; they broadcast."""
    if data is None or not data.is_floating_point() or not bool(torch.isnan(data.sum())):
        return value
    return torch.where(torch.isnan(data), torch.full_like(data, torch.nan), value.to(data.dtype))


def missing_rows(value: Tensor) -> Tensor:
    """Rows of an observed site with missing entries, `(B,)`: there it is no observation."""
    if not value.is_floating_point():
        return torch.zeros(len(value), dtype=torch.bool, device=value.device)
    return value.isnan().flatten(1).any(-1) if value.dim() > 1 else value.isnan()
