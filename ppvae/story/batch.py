r"""A batch: tensors by name, rows in front. Some keys are values of sites, others covariates."""

__all__ = ["Batch", "as_batch", "num_rows_of", "split_batch"]

import inspect
from collections.abc import Mapping

from torch import Tensor, nn

from ppvae.story.program import TensorDict

Batch = Tensor | Mapping[str, Tensor]


def as_batch(batch: Batch) -> TensorDict:
    """A bare tensor is the site named `x`."""
    return {"x": batch} if isinstance(batch, Tensor) else dict(batch)


def num_rows_of(batch: Mapping[str, Tensor]) -> int:
    """B; ValueError when there is no row, or the keys disagree."""
    if not batch:
        raise ValueError("expected a batch with at least one key, got an empty one")
    counts = {k: v.shape[0] if v.dim() else 0 for k, v in batch.items()}
    num_rows = next(iter(counts.values()))
    if num_rows < 1 or any(count != num_rows for count in counts.values()):
        raise ValueError(f"expected at least one row, and as many in every key, got {counts}")
    return num_rows


def split_batch(story: nn.Module, batch: TensorDict) -> tuple[TensorDict, TensorDict]:
    """Sort a batch's keys into values of sites and covariates (arguments of the story's `forward`)."""
    parameters = list(inspect.signature(story.forward).parameters.values())[1:]
    names = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    lacking = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.name not in batch
    ]
    if lacking:
        raise ValueError(f"expected the covariates {lacking} in the data, got keys {list(batch)}")
    return {k: v for k, v in batch.items() if k not in names}, {
        k: v for k, v in batch.items() if k in names
    }
