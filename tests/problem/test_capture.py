r"""Captured functions: the numbers of the plain ones, or given up with a reason."""

import pytest
import torch
from torch import nn
from torch.distributions import Distribution

from ppvae.problem.capture import Captured


class Noisy(nn.Module):
    """A network with dropout, a running mean, and a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.ELU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.register_buffer("mean", torch.zeros(()))

    def step(self, x, weight):
        loss = weight * (self.layers(x) + torch.randn(len(x), 1)).square().mean()
        with torch.no_grad():
            self.mean.mul_(0.9).add_(loss.detach())
        return loss.detach(), *torch.autograd.grad(loss, list(self.parameters()))


@pytest.mark.parametrize("num_rows", [5, 2])
def test_replays_give_the_numbers_of_the_plain_function(num_rows):
    plain, module = Noisy(), Noisy()
    captured = Captured(module.step, [module], "replay")
    torch.manual_seed(1)
    for count in range(4):
        x, weight = torch.randn(num_rows, 3), torch.tensor(0.5 + count)
        state = torch.get_rng_state()
        expected = plain.step(x, weight)
        torch.set_rng_state(state)
        found = captured(x, weight)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        torch.testing.assert_close(module.mean, plain.mean, rtol=0, atol=0)
        with torch.no_grad():  # an optimiser's step: the graph must see the new weights
            for own, other in zip(module.parameters(), plain.parameters(), strict=True):
                own.mul_(0.9)
                other.mul_(0.9)
    assert captured.note == "" and len(captured._graphs) == 1


def test_each_shape_has_its_graph():
    module = Noisy()
    captured = Captured(module.step, [module], "replay")
    for num_rows in (4, 3, 4):
        captured(torch.randn(num_rows, 3), torch.tensor(1.0))
    assert len(captured._graphs) == 2


def test_control_flow_on_values_is_given_up_with_a_note():
    def step(x):
        return (x.sum() if bool((x > 0).any()) else x.prod(),)

    captured = Captured(step, [], "replay")
    for _ in range(2):
        assert float(captured(torch.ones(3))[0]) == 3
    assert "not captured" in captured.note


def test_a_function_with_hidden_state_is_given_up():
    calls = []

    def step(x):
        calls.append(1)
        return (x * len(calls),)

    captured = Captured(step, [], "replay")
    assert float(captured(torch.ones(()))[0]) == 1
    assert "other numbers" in captured.note


def test_capturing_leaves_the_checks_of_distributions_as_they_were():
    before = Distribution._validate_args
    captured = Captured(lambda x: (x + 1,), [], "replay")
    captured(torch.ones(2))
    assert Distribution._validate_args == before


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="expected a mode among off, replay, inductor"):
        Captured(lambda x: (x,), [], "jit")
