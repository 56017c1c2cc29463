r"""Densities of guides over the constrained supports themselves."""

import pytest
import torch
from built import built

CONSTRAINED = ("log_normal", "heavy_tail", "bounded", "unit_interval", "positive", "simplex")


def half_line(t):
    """(0, 1) onto the positive numbers, and the size of the cells there; knows nothing of
    `biject_to`."""
    return t / (1 - t), (1 - t) ** -2


def interval(t):
    return 5 * t - 2, torch.full_like(t, 5.0)


ONE = {"size": half_line, "tau": half_line, "p": lambda t: (t, torch.ones_like(t))}
TWO = {"rate": half_line, "angle": interval}


def grid_over(key, num_nodes):
    """Nodes in the support of a site, `(G, *event)`, and the size of each one's cell, `(G,)`."""
    t = (torch.arange(num_nodes).double() + 0.5) / num_nodes
    if key in ONE:
        value, size = ONE[key](t)
        return value, size / num_nodes
    one, two = torch.cartesian_prod(t, t).unbind(-1)
    if key in TWO:
        (first, wide), (second, high) = TWO[key](one), TWO[key](two)
        return torch.stack([first, second], -1), wide * high / num_nodes**2
    share = torch.stack([one, (1 - one) * two, (1 - one) * (1 - two)], -1)
    return share, (1 - one) / num_nodes**2


@pytest.mark.parametrize("family", ["mean_field", "mixture"])
@pytest.mark.parametrize("name", CONSTRAINED)
def test_the_density_over_the_support_itself_integrates_to_one(name, family):
    _, batch, guide = built(name, family)
    (key,) = guide.flat.sites
    value, cell = grid_over(key, 20_000 if key in ONE else 250)
    value = value.unsqueeze(1).expand(-1, 2, *value.shape[1:])
    batch = {k: v[:2] for k, v in batch.items()}
    with torch.no_grad():
        u = guide.flat.flatten({key: value})
        log_guide = guide.posterior(batch).log_prob(u) - guide.flat.unflatten(u)[1]
    total = (log_guide.exp() * cell.unsqueeze(-1)).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=2e-3)
