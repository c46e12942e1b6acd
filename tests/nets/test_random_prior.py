"""Random priors: standardised, frozen, and different every time."""

import pytest
import torch
from torch import nn

from layeredrl.nets.random_prior import random_prior


@pytest.mark.parametrize("hidden_sizes", [(), (16,), (32, 32, 32)])
@pytest.mark.parametrize("nonlinearity", [nn.ReLU, nn.Tanh])
def test_outputs_are_standardised_over_standard_normal_inputs(hidden_sizes, nonlinearity):
    torch.manual_seed(0)
    std, mean = torch.std_mean(random_prior(4, 3, hidden_sizes, nonlinearity)(torch.randn(20_000, 4)), dim=0)
    torch.testing.assert_close(mean, torch.zeros(3), rtol=0.0, atol=0.2)
    torch.testing.assert_close(std, torch.ones(3), rtol=0.2, atol=0.0)


def test_it_is_frozen_but_lets_gradients_through():
    net, x = random_prior(2, 3, (8,), nn.SiLU), torch.randn(5, 2, requires_grad=True)
    net(x).sum().backward()
    assert (x.grad != 0).any()
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_every_one_is_another_function():
    x = torch.randn(5, 2)
    assert not torch.allclose(random_prior(2, 3, (8,), nn.SiLU)(x), random_prior(2, 3, (8,), nn.SiLU)(x), atol=0.1)


def test_one_that_is_constant_is_zero():
    class Dead(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    assert (random_prior(2, 3, (4,), Dead)(torch.randn(5, 2)) == 0).all()
