r"""Planar and Sylvester steps: they can be undone, and their log determinant is that of their Jacobian."""

import pytest
import torch

from ppvae.guides.planar import PlanarLayers, first_directions
from ppvae.guides.residual import at_least_minus_one, root
from ppvae.guides.sylvester import SylvesterLayers, _basis, _triangle

DIM = 4


def layers(kind, size=1.0, dtype=torch.float64):
    """Steps and the contexts of five rows."""
    generator = torch.Generator().manual_seed(0)
    if kind == "planar":
        flow, length = PlanarLayers(6), 6 * (2 * DIM + 1)
    else:
        flow, length = SylvesterLayers(3, 3, DIM), 3 * (3 * DIM + 9 + 9 + 3)
    return flow, size * torch.randn(5, length, generator=generator, dtype=dtype)


both = pytest.mark.parametrize("kind", ["planar", "sylvester"])


@both
@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
def test_the_inverse_undoes_the_steps(kind, size):
    flow, context = layers(kind, size)
    eps = 2 * torch.randn(200, 5, DIM, generator=torch.Generator().manual_seed(1)).double()
    context = context.expand(200, 5, -1)
    v, log_det = flow(eps, context)
    again, _ = flow(flow.inverse(v, context), context)
    torch.testing.assert_close(again, v, rtol=0, atol=1e-9)
    assert bool(torch.isfinite(log_det).all())
    if size <= 1.0:  # with larger ones some places are squeezed until no number can tell them apart
        torch.testing.assert_close(flow.inverse(v, context), eps, rtol=0, atol=1e-6)


@both
def test_single_precision_inverts_to_its_own_digits(kind):
    flow, context = layers(kind, 0.5, torch.float32)
    eps = torch.randn(100, 5, DIM, generator=torch.Generator().manual_seed(1))
    v, _ = flow(eps, context.expand(100, 5, -1))
    back = flow.inverse(v, context.expand(100, 5, -1))
    torch.testing.assert_close(back, eps, rtol=0, atol=2e-4)


@both
def test_the_log_determinant_is_that_of_the_jacobian(kind):
    flow, context = layers(kind)
    eps = torch.randn(DIM, generator=torch.Generator().manual_seed(2)).double()
    for row in context:
        jacobian = torch.autograd.functional.jacobian(lambda e, c=row: flow(e, c)[0], eps)
        torch.testing.assert_close(flow(eps, row)[1], jacobian.slogdet()[1])


@both
def test_gradients_pass_through_the_inverse(kind):
    flow, context = layers(kind, 0.5)
    v = torch.randn(DIM, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    row = context[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, c: flow.inverse(x, c), (v, row), atol=1e-5)


@both
def test_steps_start_as_the_identity(kind):
    from families import CONTINUOUS
    from stories import CASES, rows_of

    from ppvae import guides

    assert kind in CONTINUOUS
    story = CASES["two_sites"].story()
    batch = rows_of(CASES["two_sites"], story)
    guide = guides.build(kind, story, batch)
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
    raw = torch.linspace(-50, 50, 101).double()
    assert float(at_least_minus_one(raw).min()) >= -1
    assert float(at_least_minus_one(torch.zeros(()).double()).abs()) < 1e-12


def test_a_basis_is_orthonormal_and_a_triangle_can_be_undone():
    turns = torch.randn(5, 2, 3, DIM, generator=torch.Generator().manual_seed(0)).double()
    basis = _basis(turns)
    assert basis.shape == (5, 2, DIM, 3)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3).double().expand(5, 2, 3, 3))
    triangle = _triangle(10 * torch.randn(5, 3, 3).double())
    assert float(triangle.tril(-1).abs().max()) == 0
    assert float(triangle.diagonal(dim1=-2, dim2=-1).abs().max()) <= 1


def test_first_directions_are_always_the_same_and_cover_the_axes():
    assert torch.equal(first_directions(8, 3), first_directions(8, 3))
    assert torch.linalg.matrix_rank(first_directions(8, 3)) == 3
