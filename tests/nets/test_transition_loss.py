"""The kernels answer as torch.distributions and torch's cross-entropy do in double precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import grad
from torch.distributions import Normal
from torch.nn.functional import binary_cross_entropy

from layeredrl.nets.native.transition_loss import transition_loss
from tests.compiler import needs_compiler

pytestmark = needs_compiler
MAX_SCORE = 1e15


def draw(n_members, n_rows, n_targets, seed=0):
    """What networks say, upright as they say it; targets and ends."""
    generator = torch.Generator().manual_seed(seed)
    said = torch.randn(n_members, 2 * n_targets + 2, n_rows, generator=generator).mT
    said[..., n_targets : 2 * n_targets].div_(2.0).exp_()
    said[..., -1].sigmoid_()
    target = torch.randn(n_members, n_rows, n_targets, generator=generator)
    terminated = torch.rand(n_members, n_rows, generator=generator) < 0.3
    return said, target, terminated


def say(mean, std, term_prob):
    """All of it side by side, for one row of one member each."""
    numbers = [torch.as_tensor(x, dtype=torch.float32).view(1, -1, 1) for x in (mean, std, term_prob)]
    return torch.cat([*numbers[:2], torch.full_like(numbers[2], torch.nan), numbers[2]], dim=-1)


def reference(said, target, terminated):
    n_targets = target.shape[-1]
    mean, std, _, term_prob = said.double().split_with_sizes([n_targets, n_targets, 1, 1], dim=-1)
    nll = -Normal(mean, std).log_prob(target.double()).sum(dim=-1)
    return nll, binary_cross_entropy(term_prob.squeeze(-1), terminated.double(), reduction="none")


def assert_as_reference(said, target, terminated):
    """Values without gradients and with them, and these: of what is said, and of targets."""
    expected = reference(said, target, terminated)
    with torch.no_grad():
        for own, exact in zip(transition_loss(said, target, terminated, MAX_SCORE), expected, strict=True):
            torch.testing.assert_close(own, exact.float(), rtol=2e-6, atol=2e-6)
    leaves = [x.detach().requires_grad_() for x in (said, target)]
    own, exact = transition_loss(*leaves, terminated, MAX_SCORE), reference(*leaves, terminated)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(x.shape, generator=generator) for x in own]
    gradients = grad(own, leaves, weights), grad(exact, leaves, weights)
    for together, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=5e-6)


@given(st.integers(1, 3), st.integers(0, 40), st.integers(1, 35), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_it_is_the_log_density_and_the_cross_entropy(n_members, n_rows, n_targets, seed):
    assert_as_reference(*draw(n_members, n_rows, n_targets, seed))


def test_rows_that_lie_are_answered_too():
    assert_as_reference(*(x.contiguous() for x in draw(2, 19, 5)))


def test_what_happened_may_be_shared_or_part_of_something_else():
    said, target, terminated = draw(3, 21, 4)
    wide = torch.randn(3, 21, 9)
    for other in (target[:1].expand(3, -1, -1), wide[..., 2:6], target.mT.contiguous().mT):
        for ends in (
            terminated[:1].expand(3, -1),
            wide[..., 0] > 0,
            (wide > 0)[..., 0],
            terminated.T.contiguous().T,
        ):
            assert_as_reference(said, other, ends)


def test_logarithms_are_right_over_the_whole_range():
    exponents = torch.linspace(-148.9, 127.9, 40_000)
    std = torch.cat([exponents.double().exp2().float(), torch.linspace(0.5, 2.0, 40_000)])
    zeros = torch.zeros_like(std)
    nll, _ = transition_loss(say(zeros, std, zeros), zeros.view(1, -1, 1), zeros.view(1, -1).bool(), MAX_SCORE)
    expected = std.double().log() + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(nll[0], expected.float(), rtol=3e-7, atol=1.2e-7)


@pytest.mark.parametrize("distance", [1e16, -1e16, 1e38, torch.inf])
def test_beyond_the_limit_it_is_finite_and_flat_in_the_mean(distance):
    said = say(0.0, 0.5, 0.5).requires_grad_()
    nll, _ = transition_loss(said, torch.full((1, 1, 1), distance), torch.tensor([[False]]), MAX_SCORE)
    assert nll.item() == pytest.approx(0.5e30)
    assert grad(nll.sum(), said)[0].tolist() == [[[0.0, 2.0, 0.0, 0.0]]]


def test_what_was_held_for_impossible_has_a_finite_loss_and_no_gradient():
    said = say([0.0] * 4, [1.0] * 4, [0.0, 1.0, 0.0, 1.0]).requires_grad_()
    ended = torch.tensor([[True, False, False, True]])
    _, loss = transition_loss(said, torch.zeros(1, 4, 1), ended, MAX_SCORE)
    largest = -math.log(torch.finfo(torch.float32).tiny)
    torch.testing.assert_close(loss, torch.tensor([[largest, largest, 0.0, 0.0]]))
    assert grad(loss.sum(), said)[0][..., -1].tolist() == [[0.0] * 4]


@pytest.mark.parametrize("feature", [1, 4, 7])  # a mean, a standard deviation, a probability
def test_what_is_not_a_number_stays_so_and_spoils_nothing_else(feature):
    said, target, terminated = draw(2, 20, 3)
    said[1, 7, feature] = torch.nan
    losses = transition_loss(said.requires_grad_(), target, terminated, MAX_SCORE)
    spoilt = torch.zeros(2, 20, dtype=torch.bool)
    spoilt[1, 7] = True
    for loss, is_spoilt in zip(losses, (feature < 7, feature == 7), strict=True):
        assert torch.equal(loss.isnan(), spoilt & is_spoilt)
    (of_said,) = grad(sum(losses).sum(), said)
    expected = {1: [1, 4], 4: [1, 4], 7: [7]}[feature]
    assert of_said.isnan().nonzero().tolist() == [[1, 7, f] for f in expected]


@pytest.mark.parametrize("std", [0.0, -1.0, torch.inf])
def test_what_is_no_standard_deviation_is_answered_as_by_a_logarithm(std):
    nll, _ = transition_loss(say(0.0, std, 0.5), torch.ones(1, 1, 1), torch.tensor([[False]]), 1.0)
    score = 0.0 if std == torch.inf else 1.0
    expected = torch.tensor([[std]]).log() + 0.5 * math.log(2 * math.pi) + 0.5 * score
    torch.testing.assert_close(nll, expected, equal_nan=True)


def test_its_gradients_can_not_be_differentiated_again():
    said, target, terminated = draw(1, 3, 2)
    nll, _ = transition_loss(said.requires_grad_(), target, terminated, MAX_SCORE)
    with pytest.raises(RuntimeError, match="can't be differentiated again, expected compile=False"):
        grad(nll.sum(), said, create_graph=True)
