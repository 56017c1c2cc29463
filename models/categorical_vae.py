r"""A variational autoencoder whose causes are letters: a short word decides the picture.

Story
    Each row has a word of `M` letters from an alphabet of `K`, all alike to begin with; a network
    reads the word and gives the chance of ink at each pixel. This is `vae` with the real causes
    replaced by choices. There are `K^M` words, too many to sum over, so the word must be drawn when
    the story is learned: by the score function, or from a relaxation that lies between the letters
    (Concrete, Gumbel-softmax).

Program
    word ~ OneHotCategorical(1/K, ..., 1/K)     for each of M letters
    x ~ Bernoulli(logits = decoder(word))

Graph
    +-- data (n) -----------+
    |   (word) ---> [x]     |
    +-----------------------+
    decoder ---------> [x]

Sites
    | name | role     | shape  | support | unit   |
    |------|----------|--------|---------|--------|
    | word | latent   | (M, K) | one-hot | letter |
    | x    | observed | (P,)   | {0, 1}  | ink    |

Source
    E. Jang, S. Gu, B. Poole (2017). Categorical reparameterization with Gumbel-softmax.
    C. J. Maddison, A. Mnih, Y. W. Teh (2017). The Concrete distribution.
    A. Mnih, K. Gregor (2014). Neural variational inference and learning in belief networks (the
    score function).
"""

__all__ = ["CategoricalVAE"]

from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from ppvae.nets import MLP


class CategoricalVAE(PyroModule):
    """Bernoulli pixels, decoded from a word of one-hot letters.

    Arguments:
        num_pixels: Number `P` of pixels of a picture.
        num_letters: Length `M` of the word.
        alphabet: Number `K` of letters to choose from.
        hidden: Widths of the decoder's hidden layers.
    """

    def __init__(
        self,
        num_pixels: int = 784,
        num_letters: int = 20,
        alphabet: int = 10,
        hidden: Sequence[int] = (200, 200),
    ) -> None:
        super().__init__()
        self.decoder = MLP(num_letters * alphabet, num_pixels, hidden)
        self.register_buffer("even", torch.zeros(num_letters, alphabet))

    @classmethod
    def from_data(
        cls,
        batch: Mapping[str, Tensor],
        num_letters: int | None = None,
        alphabet: int | None = None,
        hidden: Sequence[int] = (200, 200),
    ) -> "CategoricalVAE":
        """The story for pictures like `batch["x"]`, `(B, P)`: 20 letters of 10; below 200 pixels
        8."""
        num_pixels = batch["x"][0].numel()
        usual = (20, 10) if num_pixels >= 200 else (8, 8)
        return cls(num_pixels, num_letters or usual[0], alphabet or usual[1], hidden)

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            letters = dist.OneHotCategorical(logits=self.even).to_event(1)
            word = pyro.sample("word", letters)  # (n, M, K)
            logits = self.decoder(word.flatten(-2))  # (n, P)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1))
