r"""Supports in words."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from ppvae.story import describe_support


@pytest.mark.parametrize(
    ("site_distribution", "words"),
    [
        (dist.Normal(torch.zeros(3), 1.0).to_event(1), "real"),
        (dist.LogNormal(0.0, 1.0), "positive"),
        (dist.Beta(1.0, 1.0), "from 0 to 1"),
        (dist.Uniform(-1.5, 2.0), "from -1.5 to 2"),
        (dist.Pareto(torch.tensor(2.0), torch.tensor(1.0)), "at least 2"),
        (dist.Bernoulli(0.5), "0 or 1"),
        (dist.Poisson(torch.ones(4)).to_event(1), "whole numbers from 0"),
        (dist.Binomial(7, torch.tensor(0.5)), "whole numbers 0 to 7"),
        (dist.Binomial(torch.tensor([3.0, 4.0]), torch.tensor(0.5)), "whole numbers 0 to ..."),
        (dist.Categorical(torch.ones(3)), "whole numbers 0 to 2"),
        (dist.OneHotCategorical(torch.ones(2, 3)).to_event(1), "one-hot"),
        (dist.Dirichlet(torch.ones(3)), "simplex"),
    ],
)
def test_a_support_is_told_as_a_reader_says_it(site_distribution, words):
    assert describe_support(site_distribution.support) == words


def test_a_support_without_words_keeps_its_name():
    assert describe_support(constraints.corr_cholesky) == "CorrCholesky()"
