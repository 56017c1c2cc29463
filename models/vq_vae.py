r"""A variational autoencoder of learned symbols: a sentence of codes from a codebook.

Story
    Each row has a sentence of `M` codes out of `K`. A grammar, a network that reads the codes so
    far, gives the odds of the next one; each code stands for a vector of the codebook, and a
    decoder turns the vectors into the chance of ink at each pixel. This is `categorical_vae` with
    two changes: a letter means a vector that all places share, and words are no longer all alike to
    begin with: without the grammar most sentences mean no picture, with it the story can write
    sentences of its own.

Program
    codes ~ prod_m OneHotCategorical(logits = grammar(codes_1, ..., codes_(m-1)))
    x ~ Bernoulli(logits = decoder(codes @ codebook))

Graph
    +-- data (n) ------------+
    |   (codes) ---> [x]     |
    +------------------------+
    grammar ---> (codes)     codebook, decoder ---> [x]

Sites
    | name  | role     | shape  | support | unit |
    |-------|----------|--------|---------|------|
    | codes | latent   | (M, K) | one-hot | code |
    | x     | observed | (P,)   | {0, 1}  | ink  |

Source
    A. van den Oord, O. Vinyals, K. Kavukcuoglu (2017). Neural discrete representation learning.
"""

__all__ = ["VQVAE", "Sentence"]

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Size, Tensor, nn
from torch.distributions import constraints

from ppvae.nets import MLP


class Grammar(nn.Module):
    """Log odds of each code of a sentence, given those before it: a recurrent network.

    A code need not mean the same at two places, so that each place has its own embedding of the
    codes and its own map to the odds.

    Arguments:
        shape: `(M, K)`, places and codes.
        width: Length of its memory.
    """

    def __init__(self, shape: Size, width: int) -> None:
        super().__init__()
        self.shape = shape
        places, codes = shape
        self.letters = nn.Parameter(torch.randn(places - 1, codes, width) / width**0.5)
        self.reader = nn.GRU(width, width, batch_first=True)
        self.heads = nn.Parameter(torch.randn(places, width, codes) / width**0.5)
        self.odds = nn.Parameter(torch.zeros(places, codes))

    def forward(self, codes: Tensor) -> Tensor:
        """One-hot sentences to log odds, both `(N, M, K)`, each from the codes before it."""
        read = torch.einsum("nmk,mkw->nmw", codes[:, :-1], self.letters)
        features = self.reader(nn.functional.pad(read, (0, 0, 1, 0)))[0]  # (N, M, width)
        return torch.einsum("nmw,mwk->nmk", features, self.heads) + self.odds


class Sentence(TorchDistribution):
    """One-hot codes, each drawn given those before it; an event has shape `(M, K)`.

    Scoring sends no gradient back to the codes: the grammar learns the sentences, and does not bend
    them.

    Arguments:
        grammar: From one-hot sentences, `(N, M, K)`, to log odds of each code given those before
            it; knows its `shape`.
        temperature: What the log odds are divided by: below 1 the likely becomes likelier, in draws
            and in scores.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.one_hot, 1)

    def __init__(self, grammar: Any, temperature: float = 1.0, batch: Any = ()) -> None:
        self.grammar, self.temperature = grammar, temperature
        super().__init__(Size(batch), grammar.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Sentence":
        return Sentence(self.grammar, self.temperature, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p of sentences `(*, M, K)`, `(*,)`, in nats."""
        codes = value.detach().reshape(-1, *self.event_shape)
        log_p = (self.grammar(codes) / self.temperature).log_softmax(-1)
        total = (codes * log_p).sum((-1, -2)).reshape(value.shape[:-2])
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = Size([*sample_shape, *self.batch_shape])
        weight = next(self.grammar.parameters())
        codes = weight.new_zeros(shape.numel(), *self.event_shape)
        with torch.no_grad():
            for place in range(self.event_shape[0]):
                log_odds = self.grammar(codes)[:, place] / self.temperature
                codes[:, place] = dist.OneHotCategorical(logits=log_odds).sample()
        return codes.reshape(*shape, *self.event_shape)


class VQVAE(PyroModule):
    """Bernoulli pixels, decoded from codes of a codebook with an autoregressive prior.

    Arguments:
        num_pixels: Number `P` of pixels of a picture.
        num_places: Length `M` of a sentence.
        num_codes: Number `K` of codes, at least `code_dim`.
        code_dim: Length of a code's vector.
        hidden: Widths of the decoder's hidden layers.
        grammar_width: Length of the grammar's memory.
        temperature: Of the grammar; 1 is what was learned, less writes more cautiously, and is
            another story with other odds.

    Attributes:
        codebook: The vectors, `(K, code_dim)`: a buffer that whoever assigns the codes moves.
    """

    def __init__(
        self,
        num_pixels: int = 784,
        num_places: int = 6,
        num_codes: int = 128,
        code_dim: int = 8,
        hidden: Sequence[int] = (200, 200),
        grammar_width: int = 64,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.decoder = MLP(num_places * code_dim, num_pixels, hidden)
        self.grammar = Grammar(Size([num_places, num_codes]), grammar_width)
        self.temperature = temperature
        self.register_buffer("codebook", torch.randn(num_codes, code_dim))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        num_places: int = 6,
        num_codes: int | None = None,
        code_dim: int = 8,
        hidden: Sequence[int] = (200, 200),
        grammar_width: int | None = None,
        temperature: float = 1.0,
    ) -> "VQVAE":
        """The story for pictures like `batch["x"]`, `(B, P)`; below 200 pixels 32 codes, width
        24."""
        num_pixels = batch["x"][0].numel()
        codes, width = (128, 64) if num_pixels >= 200 else (32, 24)
        sizes = num_places, num_codes or codes, code_dim
        return cls(num_pixels, *sizes, hidden, grammar_width or width, temperature)

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            codes = pyro.sample("codes", Sentence(self.grammar, self.temperature))  # (n, M, K)
            logits = self.decoder((codes @ self.codebook).flatten(-2))  # (n, P)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1))
