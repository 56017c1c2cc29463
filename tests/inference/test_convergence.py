r"""R-hat and effective sample size are ArviZ's, for a batch at a time."""

import arviz
import numpy as np
import pytest
import torch

from ppvae.inference.convergence import bulk_ess, rank_normalized_rhat


def chains(num_chains, num_draws):
    """Alike, of other places, with ties, with heavy tails, and anticorrelated: `(C, N, 3, 5)`."""
    generator = torch.Generator().manual_seed(num_chains + num_draws)
    draws = torch.randn(num_chains, num_draws, 3, 5, generator=generator).double()
    for t in range(1, num_draws):
        draws[:, t] += torch.tensor([0.0, 0.5, 0.9, 0.3, -0.8]).double() * draws[:, t - 1]
    draws[0, :, :, 1] += 1
    draws[..., 2] = draws[..., 2].round()
    draws[..., 3] = draws[..., 3].exp().square()
    return draws


@pytest.mark.parametrize(("num_chains", "num_draws"), [(8, 500), (2, 9), (3, 10), (4, 101), (2, 8)])
def test_they_are_those_of_arviz(num_chains, num_draws):
    draws = chains(num_chains, num_draws)

    def by_arviz(function, method):
        each = [function(one, method=method) for one in draws.flatten(2).movedim(-1, 0).numpy()]
        return torch.from_numpy(np.array(each)).reshape(draws.shape[2:])

    torch.testing.assert_close(rank_normalized_rhat(draws), by_arviz(arviz.rhat, "rank"))
    torch.testing.assert_close(bulk_ess(draws), by_arviz(arviz.ess, "bulk"))


def test_constant_draws_agree_and_tell_nothing():
    constant = torch.ones(4, 20, 2)
    assert bool(rank_normalized_rhat(constant).isnan().all())
    assert bulk_ess(constant).tolist() == [80.0, 80.0]
