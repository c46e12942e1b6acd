"""The Gaussian NLL, whose gradient is written by hand, against torch.distributions and finite differences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Normal

from layeredrl.models.mixture import gaussian_nll


def draw(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    error = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    std = 0.05 + torch.rand(shape, generator=generator, dtype=torch.float64)
    return error.requires_grad_(), std.requires_grad_()


@given(st.lists(st.integers(0, 5), max_size=4), st.integers(0, 2**31))
def test_value_and_gradient_are_those_of_torch_distributions(shape, seed):
    error, std = draw(shape, seed)
    nll, expected = gaussian_nll(error, std), -Normal(0.0, std, validate_args=False).log_prob(error)
    torch.testing.assert_close(nll, expected)
    of_nll = torch.randn_like(nll)
    gradients = (torch.autograd.grad(y, (error, std), of_nll) for y in (nll, expected))
    for own, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(own, reference)


def test_it_can_be_differentiated_twice():
    inputs = draw((3, 4))
    assert gradcheck(gaussian_nll, inputs)
    assert gradgradcheck(gaussian_nll, inputs)


def test_rows_that_stand_upright_are_answered_upright():
    error, std = (x.detach().mT.requires_grad_() for x in draw((2, 3, 4)))
    nll = gaussian_nll(error, std)
    assert nll.mT.is_contiguous()
    of_error, of_std = torch.autograd.grad(nll.sum(dim=-1).sum(), (error, std))
    assert of_error.mT.is_contiguous()
    assert of_std.mT.is_contiguous()


@pytest.mark.parametrize("distance", [1e16, -1e16, 1e38, torch.inf])
@pytest.mark.parametrize("std", [1e-6, 1.0])
def test_beyond_the_limit_it_is_finite_and_flat_in_the_error(distance, std):
    error, std = torch.tensor(distance, requires_grad=True), torch.tensor(std, requires_grad=True)
    nll = gaussian_nll(error, std)
    of_error, of_std = torch.autograd.grad(nll, (error, std))
    assert 1e29 < nll < torch.inf
    assert of_error == 0
    torch.testing.assert_close(of_std, 1 / std)


def test_what_is_not_a_number_stays_so_and_spoils_no_other():
    error, std = torch.tensor([torch.nan, 2.0, 2.0]), torch.tensor([1.0, torch.nan, 1.0])
    error.requires_grad_(), std.requires_grad_()
    nll = gaussian_nll(error, std)
    for x in (nll, *torch.autograd.grad(nll.sum(), (error, std))):
        assert x.isnan().tolist() == [True, True, False]
