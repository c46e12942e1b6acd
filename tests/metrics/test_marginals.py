"""Mixtures of Gaussians against torch.distributions, and where they come from."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from layeredrl.metrics.marginals import Marginals, from_prediction, from_rollout
from layeredrl.models.noise_shape import KNOTS, standardized
from layeredrl.types import Rollout
from tests.models.ensembles import make_batch, make_ensemble, query

SIZES = st.integers(1, 3)
# Of two dimensions: skewed, and with heavy tails.
SKEWED = standardized(torch.stack([KNOTS.exp(), KNOTS.sinh()]))[2]


def make_marginals(*leading, k=3, s=2, dtype=torch.float64):
    return Marginals(
        torch.randn(*leading, k, s, dtype=dtype),
        torch.rand(*leading, k, s, dtype=dtype) + 0.2,
        torch.rand(*leading, k, dtype=dtype).softmax(dim=-1),
    )


def each_dimension(marginals):
    """The reference: a mixture of numbers for each dimension."""
    weights = marginals.weights.unsqueeze(-2).expand_as(marginals.mean.mT)
    return MixtureSameFamily(Categorical(weights), Normal(marginals.mean.mT, marginals.std.mT), validate_args=False)


@given(leading=st.lists(SIZES, max_size=2), k=SIZES, s=SIZES)
def test_cdf_density_and_moments_are_those_of_torch_distributions(leading, k, s):
    marginals, value = make_marginals(*leading, k=k, s=s), 2 * torch.randn(*leading, s, dtype=torch.float64)
    reference = each_dimension(marginals)
    mean, variance = marginals.moments()
    torch.testing.assert_close(mean, reference.mean)
    torch.testing.assert_close(variance, reference.variance)
    torch.testing.assert_close(marginals.cdf(value), reference.cdf(value))
    torch.testing.assert_close(marginals.log_prob(value), reference.log_prob(value))


def test_joint_density_ties_dimensions_together():
    marginals, value = make_marginals(5), torch.randn(5, 2, dtype=torch.float64)
    components = Independent(Normal(marginals.mean, marginals.std), 1)
    reference = MixtureSameFamily(Categorical(marginals.weights), components)
    torch.testing.assert_close(marginals.joint_log_prob(value), reference.log_prob(value))
    assert not torch.allclose(marginals.joint_log_prob(value), marginals.log_prob(value).sum(dim=-1))


def test_values_are_shared_by_members():
    marginals, value = make_marginals(4, 3), torch.randn(4, 1, 2, dtype=torch.float64)
    for ask in (marginals.cdf, marginals.log_prob, marginals.joint_log_prob):
        torch.testing.assert_close(ask(value), ask(value.expand(4, 3, 2)))


def test_pooled_members_are_their_uniform_mixture():
    members, value = make_marginals(4, 3), torch.randn(4, 1, 2, dtype=torch.float64)
    pooled = members.pooled()
    assert pooled.mean.shape == (4, 9, 2)
    torch.testing.assert_close(pooled.cdf(value[:, 0]), members.cdf(value).mean(dim=1))
    torch.testing.assert_close(pooled.log_prob(value[:, 0]).exp(), members.log_prob(value).exp().mean(dim=1))
    joint = members.joint_log_prob(value).exp().mean(dim=1)
    torch.testing.assert_close(pooled.joint_log_prob(value[:, 0]).exp(), joint)


def test_values_far_from_all_components_keep_finite_densities():
    marginals, far = make_marginals(1, dtype=torch.float32), torch.full((1, 2), 1e30)
    assert marginals.log_prob(far).isfinite().all()
    assert marginals.joint_log_prob(far).isfinite().all()
    assert torch.equal(marginals.cdf(far), torch.ones(1, 2))
    assert torch.equal(marginals.cdf(-far), torch.zeros(1, 2))


def test_a_prediction_becomes_the_law_that_the_model_gives_a_density_of():
    model = make_ensemble(n_models=3, n_modes=2)
    inputs = query(model, 6)
    next_state = torch.randn(6, 3)
    ensemble = from_prediction(model.predict(*inputs)).pooled()
    assert ensemble.mean.shape == (6, 6, 3)
    torch.testing.assert_close(ensemble.joint_log_prob(next_state), model.get_log_prob(*inputs, next_state)[0])


def test_so_does_one_whose_noise_is_calibrated_to_have_another_shape():
    model = make_ensemble(n_models=3, n_modes=2)
    model.recalibrate(make_batch(200), "isotonic")
    inputs, next_state = query(model, 6), torch.randn(6, 3)
    ensemble = from_prediction(model.predict(*inputs), model.noise_shape).pooled()
    torch.testing.assert_close(ensemble.joint_log_prob(next_state), model.get_log_prob(*inputs, next_state)[0])
    assert make_ensemble().noise_shape is None


def test_noise_of_another_shape_has_the_distribution_that_its_density_integrates_to():
    marginals = replace(make_marginals(1), shape=SKEWED)
    x = torch.linspace(-15, 15, 30_001, dtype=torch.float64)[:, None, None].expand(-1, 1, 2)
    density = marginals.log_prob(x).exp()
    cdf = torch.cumulative_trapezoid(density, x, dim=0)
    torch.testing.assert_close(marginals.cdf(x)[1:], cdf, rtol=0.0, atol=1e-3)
    mean, variance = marginals.moments()
    expected = torch.trapezoid(x * density, x, dim=0)
    torch.testing.assert_close(mean, expected, rtol=0.0, atol=1e-3)
    torch.testing.assert_close(
        variance, torch.trapezoid((x - expected).square() * density, x, dim=0), rtol=2e-3, atol=0
    )


def test_gaussians_that_stand_for_another_shape_have_its_moments_and_quantiles():
    marginals = replace(make_marginals(4), shape=SKEWED)
    gaussians = marginals.as_gaussians()
    assert gaussians.shape is None
    for got, expected in zip(gaussians.moments(), marginals.moments(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0.01, atol=0.01)
    value = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(gaussians.cdf(value), marginals.cdf(value), rtol=0.0, atol=0.03)


def test_a_rollout_becomes_a_mixture_over_the_particles_of_each_member():
    b, e, p, h, s = 2, 3, 4, 5, 2
    mean, var = torch.randn(b, e, p, h, s), torch.rand(b, e, p, h, s) + 0.1
    rollout = Rollout(torch.zeros(b, e, p, h + 1, s), torch.zeros(b, e, p, h), lambda: (mean, var))
    members = from_rollout(rollout)
    for step in range(h):
        for member in range(e):
            got_mean, got_var = members.moments()
            within = var[:, member, :, step].mean(dim=1) + mean[:, member, :, step].var(dim=1, correction=0)
            torch.testing.assert_close(got_mean[:, step, member], mean[:, member, :, step].mean(dim=1))
            torch.testing.assert_close(got_var[:, step, member], within)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (torch.nan, 1.0, r"Marginals\.mean: got nan at index \(0, 0\), expected numbers within ±1e\+15"),
        (-(2.0**60), 1.0, r"Marginals\.mean: got -1\.15.*e\+18 at"),
        (0.0, 0.0, r"Marginals\.std: got 0\.0 at index \(0, 0\), expected positive numbers of at most 1e\+15"),
        (0.0, torch.inf, r"Marginals\.std: got inf"),
    ],
)
def test_what_is_no_forecast_is_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Marginals(torch.full((1, 2), mean), torch.full((1, 2), std), torch.ones(1))
