r"""Vector quantisation: each code is the codebook's entry nearest to the encoder's answer."""

__all__ = ["VectorQuantized"]

from collections.abc import Mapping
from typing import Any, NoReturn

import pyro
import torch
from torch import Size, Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.discrete import DiscreteSampler
from ppvae.guides.site_sampler import PointMass
from ppvae.story import Batch, Site, Sites, TensorDict, enumerate_support

# Share of an even use of the codes below which one counts as unused.
UNUSED_BELOW = 0.01


class VectorQuantized(Guide):
    r"""The nearest code for each entry, with certainty,
    :math:`k = \arg\min_k \lVert e_k - h(x) \rVert`.

    The story draws a site of one-hot codes and looks them up in its codebook,
    `code @ self.codebook`. In training the decoder's gradient passes straight through to `h`, and
    the loss grows by the commitment :math:`\beta \lVert h - \mathrm{sg}(e_k) \rVert^2`. A codebook
    that is a buffer of the story holds the moving averages of what chooses each entry;
    one that is a parameter is trained, by its own gradient and
    :math:`\lVert \mathrm{sg}(h) - e_k \rVert^2`. The ELBO that is reported has neither term. Other
    arguments as for `Guide`; the story that it is built with is the one whose codebook it reads.

    Arguments:
        codebook: Name of the story's attribute that holds the entries, `(K, D)`.
        commitment: Weight :math:`\beta` of the commitment, per squared unit of the codebook, in
            nats; `kl_warmup` and an objective's `beta` scale it as well.
        decay: Weight of the past in the moving average of a training step.

    Raises:
        ValueError: If the story has another latent site than one of one-hot codes, no such
            codebook, or K < D.

    Source:
        A. van den Oord, O. Vinyals, K. Kavukcuoglu (2017). Neural discrete representation learning.
    """

    adds_to_loss = True
    counts: Tensor
    sums: Tensor

    def __init__(
        self,
        story: nn.Module,
        data: Any,
        *,
        codebook: str = "codebook",
        commitment: float = 0.25,
        decay: float = 0.99,
        **options: Any,
    ) -> None:
        if commitment < 0 or not 0 <= decay < 1:
            raise ValueError(
                f"expected commitment >= 0 and 0 <= decay < 1, got {commitment} and {decay}"
            )
        self._codebook = (story, codebook)  # in a tuple: the story is no part of the guide
        self.commitment, self.decay = commitment, decay
        super().__init__(story, data, **options)
        entries = self.entries
        self.register_buffer("counts", torch.ones(len(entries)).to(entries))
        self.register_buffer("sums", entries.detach().clone())

    @property
    def entries(self) -> Tensor:
        """The story's codebook, `(K, D)`."""
        story, name = self._codebook
        return getattr(story, name)

    def check_sites(self, sites: Sites) -> None:
        names = sorted(sites.latent)
        site = next(iter(sites.local_discrete.values()), None)
        if len(names) != 1 or site is None or not _is_one_hot(site):
            raise ValueError(
                f"expected one latent site of one-hot codes for vector_quantized, got {names}; "
                "write it as OneHotCategorical"
            )
        story, name = self._codebook
        book = getattr(story, name, None)
        if not torch.is_tensor(book) or book.dim() != 2 or len(book) != site.row_shape[-1]:
            raise ValueError(
                f"site '{site.name}': expected the story to hold a codebook of "
                f"{site.row_shape[-1]} entries as `{name}`, (K, D), got "
                f"{getattr(book, 'shape', None)}"
            )
        if len(book) < book.shape[1]:
            raise ValueError(
                "expected at least as many codes as numbers in each, got a codebook "
                f"{tuple(book.shape)}"
            )

    def make_discrete(self, sites: Sites) -> DiscreteSampler:
        width = self.entries.shape[1]
        shapes = {name: Size([*site.row_shape[:-1], width]) for name, site in sites.items()}
        return DiscreteSampler(sites, shapes)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {}

    def family(self, parameters: TensorDict, transport: Any) -> NoReturn:
        raise AssertionError("there is no continuous latent number")

    def local(self, batch: Batch) -> NoReturn:
        raise ValueError(
            "expected a guide with a density for a search of q*, got vector_quantized, which is "
            "certain of its codes; compare its elbo with that of a categorical guide"
        )

    def site_distribution(self, site: Site, logits: Tensor) -> PointMass:
        """All mass on the nearest code; `logits` are the encoder's `h`, `(*batch, *entries, D)`."""
        entries, encoded = self.entries.detach(), logits
        index = torch.cdist(encoded.detach(), entries).argmin(-1)
        code = nn.functional.one_hot(index, len(entries)).to(encoded)
        if not (self.training and torch.is_grad_enabled()):
            return PointMass(code, event_dim=1)
        self._add_commitment(site, encoded, index)
        if not self.entries.requires_grad:
            self._update_codebook(encoded.detach().flatten(0, -2), code.flatten(0, -2))
        # What the story looks up, code @ entries, moves exactly as `encoded` does.
        return PointMass(
            code + (encoded - encoded.detach()) @ torch.linalg.pinv(entries), event_dim=1
        )

    def _add_commitment(self, site: Site, encoded: Tensor, index: Tensor) -> None:
        """Add the commitment to the loss, row by row."""
        chosen = self.entries[index]
        cost = self.commitment * (encoded - chosen.detach()).square()
        if self.entries.requires_grad:
            cost = cost + (encoded.detach() - chosen).square()
        inner = [dim for dim, _ in site.layout.inner]
        cost = cost.flatten(site.layout.depth).sum(-1)  # as the plates: rows, and inner ones
        cost = cost.sum(inner, keepdim=True) if inner else cost
        pyro.factor(f"_{site.name}_commitment", cost, has_rsample=True)

    def _update_codebook(self, encoded: Tensor, code: Tensor) -> None:
        """Move each entry to the mean of what chose it, `(N, D)`; restart unused ones at data."""
        share = len(encoded) / len(self.counts)
        with torch.no_grad():
            self.counts.lerp_(code.sum(0), 1 - self.decay)
            self.sums.lerp_(code.T @ encoded, 1 - self.decay)
            unused = self.counts < UNUSED_BELOW * share
            restarts = encoded[
                torch.randint(len(encoded), (len(self.counts),), device=encoded.device)
            ]
            self.counts.masked_fill_(unused, share)
            self.sums.copy_(torch.where(unused.unsqueeze(-1), share * restarts, self.sums))
            # `data`: an earlier particle's graph may hold the codebook.
            self.entries.data.copy_(self.sums / self.counts.unsqueeze(-1))


def _is_one_hot(site: Site) -> bool:
    values = enumerate_support(site)
    return values is not None and values[0].dim() == 2
