r"""Guides without amortization: a complete set of family parameters for each row."""

__all__ = ["LocalGuide"]

from typing import Any

import torch
from pyro.distributions import Distribution
from torch import nn

from ppvae.guides.base import GuideBase
from ppvae.guides.pushforward import RowNetworks
from ppvae.story import Batch, TensorDict, as_batch, local_params, num_rows_of


class LocalGuide(GuideBase):
    """The unamortized member of a family: a complete set of family parameters for each row.

    For a flow these are the weights of the flow's networks too, a copy for each row. Serves exactly
    the rows it was made for.

    Arguments:
        guide: The amortized guide; its parameters are the start.
        batch: The rows, name -> `(B, *event)`.
    """

    is_unamortized = True

    def __init__(self, guide: Any, batch: TensorDict) -> None:
        super().__init__(name="local")
        self.batch = batch
        self.site_sampler, self.discrete = guide.site_sampler, guide.discrete
        self.row_dim = guide.row_dim
        self._family = (guide,)  # in a tuple: the encoder is no part of this guide
        # The global guide is shared: as a registered part it would be renamed.
        self.__dict__["global_guide"] = guide.global_guide
        self.borrowed = (guide.global_guide,)
        with torch.no_grad(), local_params(guide):
            start = guide.parameters_of(batch)
        self.rows = nn.ParameterDict({k: nn.Parameter(v.clone()) for k, v in start.items()})
        self.networks = nn.ParameterDict()
        if guide.transport is not None:
            for name, weight in guide.transport.named_parameters():
                copies = weight.detach().expand(num_rows_of(batch), *weight.shape).clone()
                self.networks[name.replace(".", "/")] = nn.Parameter(copies)

    def parameters_of(self, batch: Batch) -> TensorDict:
        """Parameters of each row, name -> `(B, *shape)`."""
        if num_rows_of(as_batch(batch)) != num_rows_of(self.batch):
            raise ValueError(
                f"expected the {num_rows_of(self.batch)} rows that this local guide was made for, "
                f"got {num_rows_of(as_batch(batch))}; call guide.local(batch) on those rows"
            )
        return dict(self.rows.items())

    def distribution(self, parameters: TensorDict) -> Distribution:
        family = self._family[0]
        transport: Any = family.transport
        if transport is not None:
            weights = {k.replace("/", "."): w for k, w in self.networks.items()}
            transport = RowNetworks(transport, weights)
        return family.family(parameters, transport)

    def repeated(self, num: int) -> "LocalGuide":
        """A guide of all rows with their parameters, then of all rows again, `num` times."""
        batch = {k: v.repeat(num, *(1,) * (v.dim() - 1)) for k, v in self.batch.items()}
        repeated = LocalGuide(self._family[0], batch)
        with torch.no_grad():
            for mine, many in ((self.rows, repeated.rows), (self.networks, repeated.networks)):
                for key, parameter in mine.items():
                    many[key].copy_(parameter.repeat(num, *(1,) * (parameter.dim() - 1)))
        return repeated

    def optimize(self, story: nn.Module, **options: Any) -> Any:
        """Search for q*; see `ppvae.inference.optimize_local`."""
        from ppvae.inference.local_search import optimize_local

        return optimize_local(story, self, **options)
