r"""Topics: a document is a blend of a few vocabularies, seen as counts of words.

Story
    Each document has a length and shares of `K` topics. The shares are the softmax of Normal
    numbers, whose correlations are learned: topics may go together or shun each other
    (logistic-normal). A topic is a distribution over the vocabulary of `V` words; how often a word
    stands in the document is Poisson around length times its share of the blend. This is
    `factor_analysis` for counts: the loadings are topics, the noise is that of counting.

Program
    length ~ LogNormal(log_length, length_spread)
    z ~ Normal(mean, covariance)                     shares = softmax(z, 0)
    x ~ Poisson(length * sum_k shares_k topics_k)

Graph
    +-- data (n) -----------+
    |   (z) -------> [x]    |
    |   (length) -----^     |
    +-----------------------+
    topics -----------> [x]    mean, covariance ---> (z)

Sites
    | name   | role     | shape | support  | unit     |
    |--------|----------|-------|----------|----------|
    | length | latent   | ()    | positive | words    |
    | z      | latent   | (D,)  | real     | log odds against the last topic |
    | x      | observed | (V,)  | count    | words    |

Exact results
    Given the shares and the total the counts are multinomial, and the total is Poisson around the
    length.

Source
    D. M. Blei, J. D. Lafferty (2007). A correlated topic model of Science.
    A. Srivastava, C. Sutton (2017). Autoencoding variational inference for topic models.
"""

__all__ = ["TopicModel"]

from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

TOPIC_CONTRAST = 2.0  # scale of the first topics' log odds: topics that differ


class TopicModel(PyroModule):
    """Counts of words, blended from topics in logistic-normal shares.

    Arguments:
        num_words: Size `V` of the vocabulary.
        num_topics: Number `K` of topics; the shares have `D = K - 1` free numbers.
        length: Typical number of words of a document at the start.
    """

    example: ClassVar[str] = "simulated"

    def __init__(self, num_words: int = 50, num_topics: int = 4, length: float = 100.0) -> None:
        super().__init__()
        free = num_topics - 1
        self.topics = nn.Parameter(TOPIC_CONTRAST * torch.randn(num_topics, num_words))
        self.log_length = nn.Parameter(torch.tensor(length).log())
        self.length_spread: Any = PyroParam(torch.tensor(0.3), constraints.positive)
        self.mean = nn.Parameter(torch.zeros(free))
        self.root: Any = PyroParam(1.5 * torch.eye(free), constraints.lower_cholesky)

    @classmethod
    def from_data(cls, batch: Mapping[str, Tensor], num_topics: int = 4) -> "TopicModel":
        """The story for documents like `batch["x"]`, with shape `(B, V)`."""
        counts = batch["x"].nan_to_num(0.0)
        return cls(counts.shape[1], num_topics, float(counts.sum(1).mean().clamp_min(1.0)))

    def forward(self, n: int) -> None:
        log_length, spread, mean, root = self.log_length, self.length_spread, self.mean, self.root
        topics = self.topics.softmax(-1)  # (K, V)
        with pyro.plate("data", n):
            length = pyro.sample("length", dist.LogNormal(log_length, spread))  # (n,)
            z = pyro.sample("z", dist.MultivariateNormal(mean, scale_tril=root))  # (n, K - 1)
            rate = length.unsqueeze(-1) * (self.shares(z) @ topics)  # (n, V)
            pyro.sample("x", dist.Poisson(rate).to_event(1))

    def shares(self, z: Tensor) -> Tensor:
        """Shares of the topics, `(*, K - 1)` to `(*, K)`."""
        return torch.cat([z, torch.zeros_like(z[..., :1])], -1).softmax(-1)
