r"""Planar and Sylvester steps: they can be undone, and their log determinant is that of their
Jacobian."""

import pytest
import torch
from built import built

from ppvae.guides.planar import PlanarSteps, first_directions
from ppvae.guides.residual import at_least_minus_one, root
from ppvae.guides.sylvester import SylvesterSteps, orthonormal_columns, triangle

NUM_ROWS, DIM = 5, 4
SHAPES = {
    "planar": ((6, DIM), (6, DIM), (6,)),  # along, push, shift
    "sylvester": ((3, 3, DIM), (3, 3, 3), (3, 3, 3), (3, 3)),  # turns, outer, inner, shift
}
both = pytest.mark.parametrize("kind", SHAPES)


def raw(kind, size=1.0, dtype=torch.float64):
    """Parameters of five rows."""
    generator = torch.Generator().manual_seed(0)
    return [
        size * torch.randn(NUM_ROWS, *shape, generator=generator, dtype=dtype)
        for shape in SHAPES[kind]
    ]


def steps(kind, parameters):
    if kind == "planar":
        return PlanarSteps(*parameters)
    turns, outer, inner, shift = parameters
    return SylvesterSteps(orthonormal_columns(turns), triangle(outer), triangle(inner), shift)


def noise(*lead, seed=1):
    return torch.randn(*lead, NUM_ROWS, DIM, generator=torch.Generator().manual_seed(seed))


@both
@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
def test_the_inverse_undoes_the_steps(kind, size):
    flow = steps(kind, raw(kind, size))
    eps = 2 * noise(200).double()
    v, log_det = flow(eps)
    torch.testing.assert_close(flow(flow.inverse(v))[0], v, rtol=0, atol=1e-9)
    assert bool(torch.isfinite(log_det).all())
    if size <= 1.0:  # larger ones squeeze some places until no number can tell them from others
        torch.testing.assert_close(flow.inverse(v), eps, rtol=0, atol=1e-6)


@both
def test_single_precision_inverts_to_its_own_digits(kind):
    flow = steps(kind, raw(kind, 0.5, torch.float32))
    eps = noise(100)
    torch.testing.assert_close(flow.inverse(flow(eps)[0]), eps, rtol=0, atol=2e-4)


@both
def test_the_log_determinant_is_that_of_the_jacobian(kind):
    flow, eps = steps(kind, raw(kind)), noise(seed=2).double()
    jacobian = torch.autograd.functional.jacobian(lambda e: flow(e)[0], eps)
    by_row = torch.stack([jacobian[i, :, i] for i in range(NUM_ROWS)])
    torch.testing.assert_close(flow(eps)[1], by_row.slogdet()[1])


@both
def test_gradients_pass_through_the_inverse(kind):
    v = noise(seed=3).double().requires_grad_()
    parameters = [p.requires_grad_() for p in raw(kind, 0.5)]
    assert torch.autograd.gradcheck(
        lambda v, *p: steps(kind, p).inverse(v), (v, *parameters), atol=1e-5
    )


@both
def test_steps_start_as_the_identity(kind):
    _, batch, guide = built("two_sites", kind, moved=0.0)
    with torch.no_grad():
        guide.to_parameters.weight.zero_()
        guide.to_parameters.bias.zero_()
        eps = torch.randn(7, len(batch["x"]), 3, dtype=torch.float64)
        u, log_det = guide.posterior(batch).push(eps)
    torch.testing.assert_close(u, eps, rtol=0, atol=1e-5)
    torch.testing.assert_close(log_det, torch.zeros_like(log_det), rtol=0, atol=1e-5)


def test_the_root_is_found_where_the_slope_is_next_to_nothing():
    y = torch.linspace(-4, 4, 41).double()
    for slope in (-0.999999, -0.5, 0.0, 3.0, 1e3):
        a, c = torch.tensor(slope).double(), torch.tensor(1.0).double()
        s = root(y, a, c, torch.tensor(0.3, dtype=torch.float64))
        torch.testing.assert_close(s + a * (s + 0.3).tanh(), y, rtol=0, atol=1e-9)


def test_pushes_stay_above_minus_one_and_are_nothing_at_nothing():
    slopes = torch.linspace(-50, 50, 101).double()
    assert float(at_least_minus_one(slopes).min()) >= -1
    assert float(at_least_minus_one(torch.zeros(()).double()).abs()) < 1e-12


def test_a_basis_is_orthonormal_and_a_triangle_can_be_undone():
    turns = torch.randn(5, 2, 3, DIM, generator=torch.Generator().manual_seed(0)).double()
    basis = orthonormal_columns(turns)
    assert basis.shape == (5, 2, DIM, 3)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3).double().expand(5, 2, 3, 3))
    upper = triangle(10 * torch.randn(5, 3, 3).double())
    assert float(upper.tril(-1).abs().max()) == 0
    assert float(upper.diagonal(dim1=-2, dim2=-1).abs().max()) <= 1


def test_first_directions_are_always_the_same_and_cover_the_axes():
    assert torch.equal(first_directions(8, 3), first_directions(8, 3))
    assert torch.linalg.matrix_rank(first_directions(8, 3)) == 3
