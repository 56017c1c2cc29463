r"""log p(x, z) row by row; discrete sites that z leaves out are summed over."""

__all__ = ["LogJoint", "log_joint"]

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ppvae.story.batch import Batch, as_batch, num_rows_of
from ppvae.story.conditioning import trace_sites
from ppvae.story.enumeration import Configurations
from ppvae.story.handlers import RowLogProb
from ppvae.story.programs import program_of
from ppvae.story.running import TensorDict
from ppvae.story.sites import Sites
from ppvae.story.validation import partially_observed

# Observed numbers that are scored at a time while joint values are summed over.
BLOCK_NUMBERS = 2**24
MIN_NUMBERS_PER_ROW = 256  # stands for hidden layers


class LogJoint:
    r"""log p(x, z) row by row for fixed rows x and any number of particles z.

    Finite discrete sites y that the particles leave out are summed over, exactly:
    :math:`\log p(x, z) = \log \sum_y p(x, y, z)`. So are those that some rows miss and others show,
    such as labels: a row that shows y has the one term. Global sites are conditioned on, and their
    own log p is not part
    of a row: `split` gives it apart.

    Arguments:
        story: The story.
        batch: The rows x, name -> `(B, *event)`.
        sites: The story's sites, if already known.
    """

    def __init__(self, story: nn.Module, batch: Batch, sites: Sites | None = None) -> None:
        self.program = program_of(story)
        self.batch = as_batch(batch)
        self.sites = trace_sites(story, self.batch) if sites is None else sites
        self.partly = partially_observed(story, self.batch, self.sites)
        self._configurations: dict[frozenset[str], Configurations] = {}

    def __call__(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Score particles.

        Arguments:
            latents: Every latent site, name -> `(S, B, *row)`; a global site `(S, *row)`. Finite
                discrete sites may be left out.

        Returns:
            log p(x, z) with shape `(S, B)`, in nats; S = 1 where nothing is left to give.

        Raises:
            ValueError: If a site is absent that cannot be summed over.
        """
        return self.split(latents)[0]

    def split(self, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As `__call__`, with the global sites' log p apart: `(S, B)` and `(S,)`, in nats."""
        configurations = self.left_out(latents)
        if configurations is None:
            scored = self.scored(latents)
            return scored.local, scored.shared
        local, shared = self._by_configuration(latents, configurations)
        return local.logsumexp(1), shared

    def complete(
        self, latents: Mapping[str, Tensor], num_draws: int = 1
    ) -> tuple[TensorDict, Tensor]:
        """Draw the sites that were left out from p(y | x, z), their exact conditional.

        Arguments:
            latents: As in `__call__`.
            num_draws: Draws for each particle; more than one only where `latents` is empty.

        Returns:
            Every latent site, and those that some rows miss, name -> `(S, B, *row)`, and log p(y |
            x, z) with shape `(S, B)`, in nats; 0 where none was left out.
        """
        configurations = self.left_out(latents)
        if configurations is None:
            first = next(iter(latents.values()))
            return dict(latents), first.new_zeros(len(first), num_rows_of(self.batch))
        log_p = self._by_configuration(latents, configurations)[0].log_softmax(1).transpose(1, 2)
        flat = (
            log_p.detach().flatten(0, 1).nan_to_num(0.0)
        )  # (S * B, C); rows without a density are found elsewhere
        index = torch.multinomial(flat.exp(), num_draws, replacement=True).T.reshape(
            -1, log_p.shape[1]
        )
        drawn = {**latents, **configurations.pick(index)}
        in_order = {name: drawn[name] for name in (*self.sites.latent, *self.partly)}
        chosen = log_p.expand(len(index), *log_p.shape[1:]).gather(2, index.unsqueeze(2))
        return in_order, chosen.squeeze(2)

    def by_site(self, latents: Mapping[str, Tensor]) -> TensorDict:
        """log p of each site, name -> `(S, B)`, a global one `(S,)`; absent sites are drawn."""
        latents = self.complete(latents)[0]
        return self.scored(latents).by_site

    def left_out(self, latents: Mapping[str, Tensor]) -> Configurations | None:
        """The joint values of the sites that `latents` lacks, or some rows miss; None for none."""
        names = (frozenset(self.sites.latent) | set(self.partly)) - set(latents)
        if not names:
            return None
        if names not in self._configurations:
            absent = Sites((n, s) for n, s in self.sites.items() if n in names)
            if any(not s.is_discrete for s in absent.values()):
                missing = sorted(n for n, s in absent.items() if not s.is_discrete)
                raise ValueError(f"expected a value for every latent site, got none for {missing}")
            self._configurations[names] = Configurations(absent)
        return self._configurations[names]

    def _by_configuration(
        self, latents: Mapping[str, Tensor], configurations: Configurations
    ) -> tuple[Tensor, Tensor]:
        """log p(x, y, z) for every y, `(S, C, B)`, and the global sites' log p, `(S,)`."""
        device = next(iter(self.batch.values())).device
        every = configurations.with_all_values(dict(latents), num_rows_of(self.batch), device)
        step = self._block()
        blocks = range(0, len(next(iter(every.values()))), step)
        parts = [self.scored({k: v[i : i + step] for k, v in every.items()}) for i in blocks]
        local = torch.cat([part.local for part in parts])
        shared = torch.cat([part.shared for part in parts])
        local = local.reshape(-1, configurations.count, local.shape[-1])
        for name in self.partly:
            local = local.masked_fill(self._differs(name, configurations), -torch.inf)
        return local, shared.reshape(-1, configurations.count)[:, 0]

    def _differs(self, name: str, configurations: Configurations) -> Tensor:
        """Where a joint value is not what the row shows, `(C, B)`."""
        shown = self.batch[name]  # (B, *row)
        value = configurations.values[name].to(shown).unsqueeze(1)
        differs = (value != shown) & ~torch.isnan(shown)
        return differs.flatten(2).any(-1) if differs.dim() > 2 else differs

    def _block(self) -> int:
        """Particles of all rows that are scored at a time."""
        numbers = max(MIN_NUMBERS_PER_ROW, sum(v[0].numel() for v in self.batch.values()))
        return max(1, BLOCK_NUMBERS // (numbers * num_rows_of(self.batch)))

    def scored(self, latents: Mapping[str, Tensor]) -> RowLogProb:
        """Log densities of particles with a value at every latent site."""
        return self.program.score(self.batch, dict(latents), self.sites)


def log_joint(story: nn.Module, batch: Batch, latents: Mapping[str, Tensor]) -> Tensor:
    """log p(x, z) of each particle and row; where the story has global sites g, log p(x, z | g).

    Arguments:
        story: The story; its observation densities are normalised.
        batch: Rows x, name -> `(B, *event)`; NaN is missing and does not count.
        latents: Every latent site, name -> `(S, B, *row)`; a global site `(S, *row)`. Finite
            discrete sites may be left out and are then summed over.

    Returns:
        `(S, B)`, in nats.

    Raises:
        ValueError: If a latent site is absent that cannot be summed over.
    """
    return LogJoint(story, batch)(latents)
