r"""A batch: tensors by name, rows in front. Some keys are values of sites, others covariates."""

__all__ = ["Batch", "as_batch", "num_rows_of", "split_batch"]

import inspect
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.story.running import TensorDict, eval_mode, local_params, seeded

Batch = Tensor | Mapping[str, Tensor]


def as_batch(batch: Batch) -> TensorDict:
    """A bare tensor is the site named `x`.

    Raises:
        ValueError: If it is neither a tensor nor a dict of tensors.
    """
    if isinstance(batch, Tensor):
        return {"x": batch}
    if not isinstance(batch, Mapping) or not all(isinstance(v, Tensor) for v in batch.values()):
        raise ValueError(
            f"expected a tensor or a dict of tensors, got {type(batch).__name__}; "
            "ppvae.data.as_rows(data).batch() makes one of arrays and data sets"
        )
    return dict(batch)


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
    """Sort a batch's keys into values of sites and covariates.

    Covariates are the arguments of the story's `forward`; where it takes `**covariates`, they are
    all keys that name no site.

    Arguments:
        story: The story.
        batch: Name -> `(B, *event)`.

    Returns:
        Values of sites, and covariates, each name -> `(B, *event)`.

    Raises:
        ValueError: If an argument without a default is not in the batch.
    """
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
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        names = set(batch) - _site_names(story, batch)
    return {k: v for k, v in batch.items() if k not in names}, {
        k: v for k, v in batch.items() if k in names
    }


_SITE_NAMES: WeakKeyDictionary[nn.Module, dict[frozenset[str], set[str]]] = WeakKeyDictionary()


def _site_names(story: nn.Module, batch: TensorDict) -> set[str]:
    """What a story with `**covariates` draws, from one run on two rows."""
    known = _SITE_NAMES.setdefault(story, {})
    keys = frozenset(batch)
    if keys not in known:
        few = {k: v[:2] for k, v in batch.items()}
        with (
            torch.no_grad(),
            eval_mode(story),
            local_params(story),
            seeded(0, story),
            poutine.block(),
        ):
            trace = poutine.trace(story).get_trace(num_rows_of(few), **few)
        known[keys] = {name for name, node in trace.nodes.items() if node["type"] == "sample"}
    return known[keys]
