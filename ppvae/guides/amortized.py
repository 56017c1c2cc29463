r"""The guide contract: what every amortized family shares, done once.

A guide reads the story's latent sites, encodes a batch, turns the encoder's features into the
family's parameters, and samples the sites. A *family* is a final class that gives two things: which
parameters a row has, and which distribution over :math:`u \in R^d` they give. Constrained supports,
several sites, inner plates, missing data, global sites and the plate `data` are handled here.
"""

__all__ = ["Guide"]

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from pyro.distributions import Distribution
from torch import Size, nn

from ppvae.data import preview, to_batch
from ppvae.guides.base import LOGITS, GlobalGuide, GuideBase
from ppvae.guides.discrete import DiscreteSampler
from ppvae.guides.features import Features
from ppvae.guides.site_sampler import SiteSampler
from ppvae.guides.unamortized import LocalGuide
from ppvae.nets import hold_norms
from ppvae.story import (
    Batch,
    Configurations,
    Sites,
    TensorDict,
    as_batch,
    enumerate_support,
    has_missing,
    reference_tensor,
    trace_sites,
)

ROWS_TO_PREVIEW = 2000


class Guide(GuideBase):
    """An amortized posterior q(z | x) made from a story's own trace.

    Usable as it is with `pyro.infer.SVI`, `Trace_ELBO`, `TraceMeanField_ELBO` and `Predictive`: it
    is called on the same batch as `observe(story)`.

    Arguments:
        story: The story; only its sites are read, it is not kept.
        data: Rows like those to come, anything that `ppvae.data.as_rows` takes: shows which sites
            are observed, their shapes and ranges, and whether entries are missing (of a stream, its
            first rows do).
        encoder: A module from a batch's rows to `(B, features)`; by default chosen from their
            shape.
        hidden: Hidden widths of the default encoder.
        denoising: Standard deviation of noise on the encoder's inputs in training, in units of its
            standardised inputs; smooths the encoder's output.
        weight_norm: Norm that the weights into every unit of the encoder keep, its last layer
            included; the smaller, the smoother its answers. None leaves them free.
        name: Prefix of the parameters' names in Pyro's store, for several guides under
            `pyro.infer.SVI`.

    Raises:
        ValueError: If there is no local latent site, the family does not suit those that there are,
            or an option is out of range.

    Source:
        R. Shu, H. H. Bui, S. Zhao, M. J. Kochenderfer, S. Ermon (2018). Amortized inference
        regularization (`denoising`, `weight_norm`).
    """

    def __init__(
        self,
        story: nn.Module,
        data: Any,
        *,
        encoder: nn.Module | None = None,
        hidden: Sequence[int] = (200, 200),
        denoising: float = 0.0,
        weight_norm: float | None = None,
        name: str = "guide",
    ) -> None:
        super().__init__(name=name)
        if not hidden:
            raise ValueError("expected at least one hidden width for the encoder, got none")
        rows = preview(data)
        masked = [k for k, v in rows.tensors.items() if has_missing(v)]
        batch = to_batch(story, rows, ROWS_TO_PREVIEW)
        sites = trace_sites(story, batch)
        if not sites.local_latent:
            raise ValueError(
                f"expected a latent site inside the plate 'data', got only {sorted(sites)}, "
                "observed or global; leave a site out of the data to make it latent"
            )
        self.check_sites(sites)
        self.sites = sites
        self.site_sampler = SiteSampler(sites.local_continuous)
        self.discrete = self.make_discrete(sites.local_discrete)
        self.row_dim = sites.row_dim
        self.global_guide = GlobalGuide(sites.global_latent)
        dim = self.site_sampler.flat.dim
        self.shapes = {k: Size(v) for k, v in self.parameter_shapes(dim).items()} if dim else {}
        if self.discrete is not None:
            self.shapes[LOGITS] = Size([self.discrete.num_logits])
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        if self.sizes:
            self.features = Features(batch, encoder, tuple(hidden), masked, denoising)
            self.to_parameters = nn.Linear(self.features.num_features, sum(self.sizes))
            if weight_norm is not None:
                hold_norms(self.features.encoder, weight_norm)
                hold_norms(self.to_parameters, weight_norm)
        self.transport = self.make_transport(dim)
        like = reference_tensor(story)
        self.to(device=like.device, dtype=like.dtype)

    # What a family gives.

    @abstractmethod
    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        """Name -> shape of the family's parameters for one row of `dim` latent numbers."""

    @abstractmethod
    def family(self, parameters: TensorDict, transport: Any) -> Distribution:
        """The distribution over `u` that the parameters give.

        Arguments:
            parameters: Name -> `(B, *shape)`, shapes as in `parameter_shapes`; near zero at the
                start.
            transport: What `make_transport` made; the unamortized guide passes other networks
                for each row.

        Returns:
            A distribution of batch shape `(B,)` and event shape `(d,)`.
        """

    def make_discrete(self, sites: Sites) -> DiscreteSampler | None:
        """What draws the discrete sites; None leaves them out, to be summed over."""
        if sites:
            Configurations(sites)  # refuses what cannot be summed over
        return None

    def check_sites(self, sites: Sites) -> None:
        """Refuse a story that the family does not suit: by default one of discrete sites alone."""
        if not sites.local_continuous:
            for name, site in sites.local_discrete.items():
                if enumerate_support(site) is None:
                    raise ValueError(
                        f"site '{name}': expected a discrete site with finitely many values, got "
                        f"the support {site.support}, for which ppvae has no guide; truncate it, "
                        "or write a Pyro guide"
                    )
            raise ValueError(
                f"expected a continuous latent site for {type(self).__name__}, got only the "
                f"discrete {sorted(sites.latent)}; use enumerated (few joint values), categorical "
                "or concrete"
            )

    def make_transport(self, dim: int) -> nn.Module | None:
        """The networks of a flow, shared by all rows; None for families without any."""
        return None

    # What every guide does.

    def parameters_of(self, batch: Batch) -> TensorDict:
        """The encoder's output: family parameters of each row, name -> `(B, *shape)`."""
        if not self.sizes:
            return {}
        flat = self.to_parameters(self.features(as_batch(batch)))
        parts = flat.split(self.sizes, -1)
        return {
            name: part.reshape(len(part), *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def distribution(self, parameters: TensorDict) -> Distribution:
        """The family's distribution over `u` for these parameters."""
        return self.family(parameters, self.transport)

    def local(self, batch: Batch) -> LocalGuide:
        """The unamortized member of this family: parameters for each row, started at this answer.

        Arguments:
            batch: Name -> `(B, *event)`; the local guide serves exactly these rows.

        Returns:
            A guide whose `optimize(story)` finds q*.
        """
        return LocalGuide(self, as_batch(batch))
