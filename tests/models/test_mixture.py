"""Mixtures of diagonal Gaussians against torch.distributions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from layeredrl.models.mixture import mixture_log_prob, mixture_moments, mixture_sample

SHAPES = st.tuples(
    st.lists(st.integers(1, 4), max_size=3), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31)
)
N = 40_000


def draw_mixture(leading, n_modes, size):
    mean = 3 * torch.randn(*leading, n_modes, size)
    std = torch.rand(*leading, n_modes, size) + 0.1
    return mean, std, torch.randn(*leading, n_modes).softmax(dim=-1)


def reference(mean, std, weights):
    return MixtureSameFamily(Categorical(weights), Independent(Normal(mean, std), 1))


@given(SHAPES)
def test_log_prob_is_that_of_torch_distributions(shape):
    leading, n_modes, size, seed = shape
    torch.manual_seed(seed)
    mean, std, weights = draw_mixture(leading, n_modes, size)
    value = 5 * torch.randn(*leading, size)
    torch.testing.assert_close(
        mixture_log_prob(value, mean, std, weights.log()),
        reference(mean, std, weights).log_prob(value),
        rtol=1e-4,
        atol=1e-4,
    )


@given(SHAPES)
def test_moments_are_those_of_torch_distributions(shape):
    leading, n_modes, size, seed = shape
    torch.manual_seed(seed)
    mixture = draw_mixture(leading, n_modes, size)
    mean, var = mixture_moments(*mixture)
    torch.testing.assert_close(mean, reference(*mixture).mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(var, reference(*mixture).variance, rtol=1e-4, atol=1e-4)


def test_one_value_is_measured_against_many_mixtures():
    mean, std, weights = draw_mixture((2, 5), 3, 4)
    value = torch.randn(2, 1, 4)
    together = mixture_log_prob(value, mean, std, weights.log())
    torch.testing.assert_close(together, reference(mean, std, weights).log_prob(value.expand(2, 5, 4)))


@pytest.mark.parametrize("n_modes", [1, 3])
@pytest.mark.parametrize("distance", [1e3, 1e10, 1e20, -1e20])
def test_log_prob_and_its_gradient_are_finite_in_the_far_tail(n_modes, distance):
    value = torch.full((2, 4), distance, requires_grad=True)
    mean = torch.randn(2, n_modes, 4).requires_grad_()
    std = torch.full((2, n_modes, 4), 1e-6, requires_grad=True)
    logits = torch.randn(2, n_modes, requires_grad=True)
    log_prob = mixture_log_prob(value, mean, std, logits.log_softmax(dim=-1))
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert (log_prob < -1e8).all()
    assert all(x.grad.isfinite().all() for x in (value, mean, std, logits))


def test_density_falls_with_the_distance_even_in_the_tail():
    value = torch.tensor([[1e1], [1e3], [1e5], [1e7]])
    log_prob = mixture_log_prob(value, torch.zeros(4, 1, 1), torch.ones(4, 1, 1), torch.zeros(4, 1))
    assert (log_prob.diff() < 0).all()


def test_samples_have_the_moments_of_the_mixture():
    mixture = draw_mixture((), 3, 2)
    many = [x.expand(N, *x.shape) for x in mixture]
    samples = mixture_sample(*many, torch.randn(N, 2), torch.rand(N))
    mean, var = mixture_moments(*mixture)
    error = (var / N).sqrt()
    assert ((samples.mean(dim=0) - mean).abs() < 4 * error).all()
    torch.testing.assert_close(samples.var(dim=0), var, rtol=0.05, atol=0)


def test_samples_follow_the_density():
    """The distribution function of its own law makes a sample uniform: chi-square over 20 bins."""
    mean, std = torch.tensor([[-2.0], [0.5], [4.0]]), torch.tensor([[0.3], [1.0], [0.5]])
    weights = torch.tensor([0.2, 0.5, 0.3])
    many = [x.expand(N, *x.shape) for x in (mean, std, weights)]
    samples = mixture_sample(*many, torch.randn(N, 1), torch.rand(N))
    law = MixtureSameFamily(Categorical(weights), Normal(mean[:, 0], std[:, 0]))
    counts = torch.histc(law.cdf(samples[:, 0]), bins=20, min=0, max=1)
    assert ((counts - N / 20).square() / (N / 20)).sum() < 44  # 0.999 quantile


def test_the_uniform_number_picks_the_mode_by_inverse_transform():
    mean, std = torch.tensor([[10.0], [20.0], [30.0]]), torch.ones(3, 1)
    weights = torch.tensor([0.25, 0.0, 0.75])
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.9999999])
    many = [x.expand(4, *x.shape) for x in (mean, std, weights)]
    samples = mixture_sample(*many, torch.zeros(4, 1), uniform)
    assert samples.flatten().tolist() == [10, 10, 30, 30]


def test_gradients_flow_to_the_chosen_mode_alone():
    mean, std = torch.randn(2, 3).requires_grad_(), torch.rand(2, 3).requires_grad_()
    normal = torch.randn(3)
    mixture_sample(mean, std, torch.tensor([0.5, 0.5]), normal, torch.tensor(0.9)).sum().backward()
    assert torch.equal(mean.grad, torch.tensor([[0.0] * 3, [1.0] * 3]))
    assert torch.equal(std.grad, torch.stack([torch.zeros(3), normal]))
