"""Densities, entropies, modes and draws against torch.distributions, autodiff and numerical integration."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import AffineTransform, Categorical, Independent, MultivariateNormal, Normal, TanhTransform
from torch.distributions import TransformedDistribution as Transformed

import layeredrl.policies as ours
from layeredrl.policies.distributions import SquashedNormal, StartedCategorical

leading_dims = st.lists(st.integers(1, 3), max_size=3).map(tuple)
seeds = st.integers(0, 1000)


def make_policy(
    mixin: Any, action_space: Space[Any], output: Tensor, log_std: Tensor | None = None, **settings: Any
):
    """A policy whose network says what it is told."""

    class Told(mixin, ours.Model):
        def __init__(self) -> None:
            ours.Model.__init__(self, None, action_space, "cpu")
            mixin.__init__(self, **settings)

        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            return output, {} if log_std is None else {"log_std": log_std}

    return Told()


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(leading=leading_dims, n_actions=st.integers(1, 4), seed=seeds)
def test_gaussian_mixins_are_torchs_normals(leading: tuple[int, ...], n_actions: int, seed: int) -> None:
    mean, log_std, taken = (draw(seed + i, *leading, n_actions).clamp_max(1.5) for i in range(3))
    expected = Independent(Normal(mean, log_std.exp()), 1)
    for mixin in (ours.GaussianMixin, ours.MultivariateGaussianMixin):
        policy = make_policy(mixin, Box(-1.0, 1.0, (n_actions,)), mean, log_std)
        actions, outputs = policy.act({"taken_actions": taken})
        assert actions.shape == (*leading, n_actions)
        torch.testing.assert_close(
            outputs["log_prob"], expected.log_prob(taken).unsqueeze(-1), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(policy.get_entropy(), expected.entropy().unsqueeze(-1))
        torch.testing.assert_close(policy.act({"deterministic": True})[0], expected.mode)


@given(leading=leading_dims, n=st.integers(1, 6), start=st.integers(-3, 3), seed=seeds)
def test_categorical_mixin_is_torchs_categorical(leading: tuple[int, ...], n: int, start: int, seed: int) -> None:
    logits = draw(seed, *leading, n)
    expected = Categorical(logits=logits)
    for unnormalized, output in ((True, logits + 3.0), (False, 5.0 * expected.probs)):
        policy = make_policy(
            ours.CategoricalMixin, Discrete(n, start=start), output, unnormalized_log_prob=unnormalized
        )
        actions, outputs = policy.act({})
        assert actions.shape == (*leading, 1)
        assert bool(((actions >= start) & (actions < start + n)).all())
        torch.testing.assert_close(outputs["log_prob"], expected.log_prob(actions[..., 0] - start).unsqueeze(-1))
        assert torch.equal(policy.act({"taken_actions": actions})[1]["log_prob"], outputs["log_prob"])
        torch.testing.assert_close(policy.get_entropy(), expected.entropy().unsqueeze(-1))
        assert torch.equal(policy.act({"deterministic": True})[0], expected.mode.unsqueeze(-1) + start)
        assert torch.equal(policy.distribution().mode, expected.mode + start)


@given(
    leading=leading_dims,
    counts=st.sampled_from([[2], [3, 2], [[2, 3], [1, 4]]]),
    start=st.integers(-2, 2),
    seed=seeds,
)
def test_multi_categorical_distribution_is_joint(
    leading: tuple[int, ...], counts: Any, start: int, seed: int
) -> None:
    nvec = np.array(counts)
    space = MultiDiscrete(nvec, start=np.full_like(nvec, start))
    logits = draw(seed, *leading, int(nvec.sum()))
    parts = [Categorical(logits=part) for part in logits.split(nvec.flatten().tolist(), dim=-1)]
    policy = make_policy(ours.MultiCategoricalMixin, space, logits)
    actions, outputs = policy.act({})
    joint = policy.distribution()
    expected = torch.stack([p.log_prob(a - start) for p, a in zip(parts, actions.unbind(-1), strict=True)]).sum(0)
    assert actions.shape == (*leading, nvec.size)
    torch.testing.assert_close(outputs["log_prob"], expected.unsqueeze(-1))
    torch.testing.assert_close(joint.log_prob(actions), expected)
    torch.testing.assert_close(joint.entropy(), torch.stack([p.entropy() for p in parts]).sum(0))
    torch.testing.assert_close(policy.get_entropy(), joint.entropy().unsqueeze(-1))
    assert torch.equal(joint.mode, torch.stack([p.mode for p in parts], dim=-1) + start)
    assert torch.equal(policy.act({"deterministic": True})[0], joint.mode)
    draws = joint.sample((5,))
    assert draws.shape == (5, *leading, nvec.size)
    assert bool((draws >= start).all())
    assert bool((draws < torch.tensor(nvec.flatten()) + start).all())


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "prod"])
def test_entropies_have_one_column(reduction: str) -> None:
    policy = make_policy(ours.MultiCategoricalMixin, MultiDiscrete([2, 3]), draw(0, 4, 5), reduction=reduction)
    policy.act({})
    assert policy.get_entropy().shape == (4, 1)


def test_draws_follow_their_probabilities() -> None:
    probs = torch.tensor([0.5, 0.2, 0.3, 0.0]).expand(40_000, 4)
    draws = StartedCategorical(7, probs=probs).draw(torch.Generator().manual_seed(0))
    shares = torch.bincount(draws - 7, minlength=4) / len(draws)
    torch.testing.assert_close(shares, probs[0], rtol=0.0, atol=0.01)


# Squashed Gaussians -----------------------------------------------------------------------------------------

LOW, HIGH = torch.tensor([-2.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
SQUASHED = Box(LOW.numpy(), HIGH.numpy(), dtype=np.float64)


def squashed(mean: float, std: float) -> SquashedNormal:
    shape = torch.ones(2, dtype=torch.float64)
    return SquashedNormal(mean * shape, std * shape, LOW, HIGH)


@given(mean=st.floats(-2, 2), std=st.floats(0.1, 2), seed=seeds)
def test_squashed_density_is_the_transformed_one(mean: float, std: float, seed: int) -> None:
    ours_, latent = squashed(mean, std), draw(seed, 100, 2).double().clamp(-2, 2)
    transforms = [TanhTransform(), AffineTransform((LOW + HIGH) / 2, (HIGH - LOW) / 2)]
    theirs = Transformed(Normal(ours_.base.loc, ours_.base.scale), transforms)
    actions = ours_.squash(latent)
    torch.testing.assert_close(ours_.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours_.latent_log_prob(latent), theirs.log_prob(actions))


@given(latent=st.floats(-8, 8))
def test_slope_of_the_map_is_what_autodiff_says(latent: float) -> None:
    distribution = squashed(0.3, 0.7)
    point = torch.full((2,), latent, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(distribution.squash(point).sum(), point)[0]
    density = distribution.base.log_prob(point) - slope.log()
    torch.testing.assert_close(distribution.latent_log_prob(point), density, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 0.8, -3.0])
@pytest.mark.parametrize("std", [0.05, 0.5, 1.0, 3.0, 7.4])
def test_squashed_moments_and_entropy_agree_with_integration(mean: float, std: float) -> None:
    distribution = squashed(mean, std)
    # Integrate over actions where the density lives; the substitution keeps the grid dense near the bounds.
    latent = torch.linspace(mean - 9 * std, mean + 9 * std, 200_001, dtype=torch.float64)
    latent = latent[latent.abs() < 17].unsqueeze(-1).expand(-1, 2)
    actions, log_density = distribution.squash(latent), distribution.latent_log_prob(latent)
    density = log_density.exp()

    def integrate(values: Tensor) -> Tensor:
        return torch.trapezoid(values * density, actions, dim=0)

    inside = torch.special.ndtr((17 - torch.tensor(mean)) / std) - torch.special.ndtr(
        (-17 - torch.tensor(mean)) / std
    )
    torch.testing.assert_close(integrate(torch.ones_like(actions)), inside.double().expand(2), rtol=1e-4, atol=1e-4)
    if float(inside) > 1 - 1e-6:
        torch.testing.assert_close(distribution.entropy(), integrate(-log_density), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(distribution.mean, integrate(actions), rtol=1e-5, atol=1e-5)
        second = integrate((actions - distribution.mean).square())
        torch.testing.assert_close(distribution.variance, second, rtol=1e-4, atol=1e-5)


def test_entropy_of_wide_squashed_gaussians_agrees_with_draws() -> None:
    distribution = squashed(1.0, 7.0)
    latent = distribution.base.sample((400_000,))
    expected = -distribution.latent_log_prob(latent).mean(dim=0)
    torch.testing.assert_close(distribution.entropy(), expected, rtol=0.0, atol=0.08)


def test_squashed_density_is_finite_at_the_bounds_and_far_out() -> None:
    low, high = torch.tensor([-2.0]), torch.tensor([1.0])
    distribution = SquashedNormal(torch.tensor([30.0]), torch.tensor([0.1]), low, high)
    for action in (low, high):
        value = action.clone().requires_grad_()
        log_prob = distribution.log_prob(value)
        assert bool(log_prob.isfinite())
        assert bool(torch.autograd.grad(log_prob.sum(), value)[0].isfinite().all())
    assert bool(distribution.latent_log_prob(torch.tensor([1000.0])).isfinite())
    assert bool((distribution.rsample((100,)) <= high).all())


@given(leading=leading_dims, seed=seeds)
def test_squashed_mixin_stays_inside_and_knows_its_density(leading: tuple[int, ...], seed: int) -> None:
    mean, log_std = draw(seed, *leading, 2), draw(seed + 1, *leading, 2).clamp(-2, 0)
    policy = make_policy(ours.SquashedGaussianMixin, SQUASHED, mean, log_std)
    actions, outputs = policy.act({})
    low, high = LOW.float(), HIGH.float()
    assert bool(((actions >= low) & (actions <= high)).all())
    again = policy.act({"taken_actions": actions})[1]["log_prob"]
    torch.testing.assert_close(again, outputs["log_prob"], rtol=1e-2, atol=1e-2)
    expected = (low + high) / 2 + (high - low) / 2 * mean.tanh()
    torch.testing.assert_close(outputs["mean_actions"], expected)
    assert torch.equal(policy.act({"deterministic": True})[0], outputs["mean_actions"])
    assert policy.get_entropy().shape == (*leading, 1)


def test_gradients_reach_the_network_through_squashed_draws() -> None:
    mean = nn.Parameter(torch.zeros(2))
    policy = make_policy(ours.SquashedGaussianMixin, SQUASHED, mean.expand(5, 2), torch.zeros(2))
    actions, outputs = policy.act({})
    gradient = torch.autograd.grad((actions + outputs["log_prob"]).sum(), mean)[0]
    assert bool(gradient.isfinite().all())
    assert bool((gradient != 0).all())


# Noise ------------------------------------------------------------------------------------------------------

STOCHASTIC = [
    (ours.GaussianMixin, Box(-1.0, 1.0, (3,)), 3),
    (ours.MultivariateGaussianMixin, Box(-1.0, 1.0, (3,)), 3),
    (ours.SquashedGaussianMixin, Box(-1.0, 1.0, (3,)), 3),
    (ours.CategoricalMixin, Discrete(6), 6),
    (ours.MultiCategoricalMixin, MultiDiscrete([4, 5]), 9),
]


@pytest.mark.parametrize(("mixin", "space", "width"), STOCHASTIC)
def test_noise_comes_from_the_generator_alone(mixin: Any, space: Space[Any], width: int) -> None:
    policy = make_policy(mixin, space, draw(0, 50, width), torch.zeros(width))
    before = torch.get_rng_state()
    first, again, other = (policy.act({"generator": torch.Generator().manual_seed(seed)})[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    policy.act({"deterministic": True})
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("mixin", "space", "width"), STOCHASTIC)
def test_log_prob_of_a_draw_is_that_of_the_same_action_taken(mixin: Any, space: Space[Any], width: int) -> None:
    policy = make_policy(mixin, space, 0.3 * draw(0, 50, width), torch.full((width,), -1.0))
    actions, outputs = policy.act({})
    again = policy.act({"taken_actions": actions})[1]["log_prob"]
    torch.testing.assert_close(again, outputs["log_prob"], rtol=1e-3, atol=1e-3)


def test_multivariate_distribution_is_torchs() -> None:
    policy = make_policy(ours.MultivariateGaussianMixin, Box(-1.0, 1.0, (3,)), draw(0, 5, 3), torch.zeros(3))
    policy.act({})
    assert isinstance(policy.distribution(), MultivariateNormal)
