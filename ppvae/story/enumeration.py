r"""Every joint value that the finite discrete sites of a row can take."""

__all__ = ["MAX_CONFIGURATIONS", "Configurations", "enumerate_support"]

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ppvae.story.running import TensorDict
from ppvae.story.sites import Site, Sites

# Joint values of a row that are summed one by one; more want a guide that draws them.
MAX_CONFIGURATIONS = 4096


class Configurations:
    """The joint values of some finite local sites, in one row.

    Arguments:
        sites: The sites.

    Attributes:
        count: Number C of joint values.

    Raises:
        ValueError: If a site is continuous, global, has infinitely many values, or there are too
            many joint values.
    """

    def __init__(self, sites: Sites) -> None:
        entries = {name: _finite_entries(site) for name, site in sites.items()}
        sizes = [len(values) for each in entries.values() for values in each]
        self.count = math.prod(sizes)
        if self.count > MAX_CONFIGURATIONS:
            raise ValueError(
                f"sites {sorted(sites)}: expected at most {MAX_CONFIGURATIONS} joint values in a "
                f"row to sum over, got {float(self.count):.3g}; use a guide that draws them: "
                "categorical or concrete"
            )
        index = torch.cartesian_prod(*map(torch.arange, sizes)).reshape(self.count, len(sizes))
        self.values: TensorDict = {}
        start = 0
        for name, site in sites.items():
            columns = [v[index[:, start + i]] for i, v in enumerate(entries[name])]
            start += len(columns)
            whole = torch.stack(columns, 1).reshape(self.count, *site.row_shape)
            self.values[name] = whole.to(site.dtype)

    def with_all_values(
        self, latents: TensorDict, num_rows: int, device: torch.device
    ) -> TensorDict:
        """Particles for every joint value.

        Arguments:
            latents: The other latent sites, name -> `(S, *)`; there may be none, for S = 1.
            num_rows: B.
            device: Where the values are wanted.

        Returns:
            Every site, `(S * C, *)`, the C values of a particle side by side.
        """
        num_particles = len(next(iter(latents.values()))) if latents else 1
        every = {k: v.repeat_interleave(self.count, 0) for k, v in latents.items()}
        for name, value in self.values.items():
            rows = value.to(device).unsqueeze(1).expand(self.count, num_rows, *value.shape[1:])
            every[name] = rows.repeat(num_particles, *(1,) * value.dim())
        return every

    def pick(self, index: Tensor) -> TensorDict:
        """The values of the joint values with these numbers, `(S, B)` to name -> `(S, B, *row)`."""
        return {name: value.to(index.device)[index] for name, value in self.values.items()}


def enumerate_support(site: Site) -> list[Tensor] | None:
    """The values that each entry of a row can take, `(K, *entry)` for each; None if there is no end
    of them.

    An entry is a single number, or a one-hot vector.
    """
    support: Any = site.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    shape = site.row_shape
    if isinstance(support, type(constraints.boolean)):
        return [torch.tensor([0.0, 1.0])] * shape.numel()
    if isinstance(support, type(constraints.one_hot)):
        return [torch.eye(shape[-1])] * shape[:-1].numel()
    if isinstance(support, constraints.integer_interval):
        low, high = (
            torch.as_tensor(b).expand(shape).flatten().tolist()
            for b in (support.lower_bound, support.upper_bound)
        )
        return [torch.arange(int(a), int(b) + 1) for a, b in zip(low, high, strict=True)]
    return None


def _finite_entries(site: Site) -> list[Tensor]:
    entries = enumerate_support(site)
    if entries is None:
        kind = "infinitely many values" if site.is_discrete else "a continuum of them"
        raise ValueError(
            f"site '{site.name}': expected a site with finitely many values to sum over, got "
            f"{kind} (support {site.support}); truncate it, observe it, or draw it in the guide "
            "(no guide of ppvae does, a Pyro guide may)"
        )
    if not site.is_local:
        raise ValueError(
            f"site '{site.name}': expected a site inside the plate 'data' to sum over, got one "
            "outside, on which all rows hang together; draw it in the guide"
        )
    return entries
