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


def draw(n_members, n_rows, n_features, seed=0):
    """Means, standard deviations and probabilities, as upright as networks make them; targets and ends."""
    generator = torch.Generator().manual_seed(seed)
    said = torch.randn(n_members, 2 * n_features + 1, n_rows, generator=generator).mT
    mean, raw_std, logit = said.split_with_sizes([n_features, n_features, 1], dim=-1)
    target = torch.randn(n_members, n_rows, n_features, generator=generator)
    terminated = torch.rand(n_members, n_rows, generator=generator) < 0.3
    return mean, raw_std.div(2.0).exp(), logit.sigmoid().squeeze(-1), target, terminated


def reference(mean, std, term_prob, target, terminated):
    mean, std, term_prob, target = (x.double() for x in (mean, std, term_prob, target))
    nll = -Normal(mean, std).log_prob(target).sum(dim=-1)
    return nll, binary_cross_entropy(term_prob, terminated.double(), reduction="none")


def assert_as_reference(rows):
    """Values without gradients and with them, and these: of all that is said, and of targets."""
    expected = reference(*rows)
    with torch.no_grad():
        for own, exact in zip(transition_loss(*rows, max_score=MAX_SCORE), expected, strict=True):
            torch.testing.assert_close(own, exact.float(), rtol=2e-6, atol=2e-6)
    *leaves, terminated = (x.detach().requires_grad_(x.is_floating_point()) for x in rows)
    own, exact = transition_loss(*leaves, terminated, max_score=MAX_SCORE), reference(*leaves, terminated)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(x.shape, generator=generator) for x in own]
    gradients = grad(own, leaves, weights), grad(exact, leaves, weights)
    for together, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=5e-6)


@given(st.integers(1, 3), st.integers(0, 40), st.integers(1, 35), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_it_is_the_log_density_and_the_cross_entropy(n_members, n_rows, n_features, seed):
    assert_as_reference(draw(n_members, n_rows, n_features, seed))


def test_rows_that_lie_are_answered_too():
    assert_as_reference([x.contiguous() for x in draw(2, 19, 5)])


def test_targets_may_be_shared_or_part_of_something_else():
    mean, std, term_prob, target, terminated = draw(3, 21, 4)
    wide = torch.randn(3, 21, 9)
    for other in (target[:1].expand(3, -1, -1), wide[..., 2:6], target.mT.contiguous().mT):
        assert_as_reference((mean, std, term_prob, other, terminated[:1].expand(3, -1)))


def test_logarithms_are_right_over_the_whole_range():
    exponents = torch.linspace(-148.9, 127.9, 40_000)
    std = torch.cat([exponents.double().exp2().float(), torch.linspace(0.5, 2.0, 40_000)]).view(1, -1, 1)
    zeros, some = torch.zeros_like(std), torch.zeros_like(std, dtype=torch.bool)[..., 0]
    nll, _ = transition_loss(zeros, std, zeros[..., 0], zeros, some, max_score=MAX_SCORE)
    expected = std.squeeze(-1).double().log() + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(nll, expected.float(), rtol=3e-7, atol=1.2e-7)


@pytest.mark.parametrize("distance", [1e16, -1e16, 1e38, torch.inf])
def test_beyond_the_limit_it_is_finite_and_flat_in_the_mean(distance):
    std, some = torch.full((1, 1, 1), 0.5, requires_grad=True), torch.zeros(1, 1)
    mean = torch.zeros(1, 1, 1, requires_grad=True)
    nll, _ = transition_loss(mean, std, some, torch.full((1, 1, 1), distance), some.bool(), max_score=MAX_SCORE)
    of_mean, of_std = grad(nll.sum(), (mean, std))
    assert nll.item() == pytest.approx(0.5e30)
    assert of_mean.item() == 0.0
    assert of_std.item() == 2.0


def test_what_was_held_for_impossible_has_a_finite_loss_and_no_gradient():
    term_prob = torch.tensor([[0.0, 1.0, 0.0, 1.0]], requires_grad=True)
    ended, zeros = torch.tensor([[True, False, False, True]]), torch.zeros(1, 4, 1)
    _, loss = transition_loss(zeros, zeros + 1, term_prob, zeros, ended, max_score=MAX_SCORE)
    smallest = -math.log(torch.finfo(torch.float32).tiny)
    torch.testing.assert_close(loss, torch.tensor([[smallest, smallest, 0.0, 0.0]]))
    assert grad(loss.sum(), term_prob)[0].tolist() == [[0.0] * 4]


@pytest.mark.parametrize("place", range(4))
def test_what_is_not_a_number_stays_so_and_spoils_no_other_row(place):
    rows = [x.clone() for x in draw(2, 20, 3)]
    rows[place][1, 7] = torch.nan
    leaves = [x.requires_grad_() for x in rows[:3]]
    losses = transition_loss(*rows, max_score=MAX_SCORE)
    spoilt = torch.zeros(2, 20, dtype=torch.bool)
    spoilt[1, 7] = True
    expected = [spoilt & (place != 2), spoilt & (place == 2)]
    assert all(torch.equal(loss.isnan(), nan) for loss, nan in zip(losses, expected, strict=True))
    of_mean, of_std, of_prob = grad(sum(losses).sum(), leaves)
    for of_numbers in (of_mean, of_std):
        assert torch.equal(of_numbers.isnan().all(dim=-1), expected[0])
        assert torch.equal(of_numbers.isnan().any(dim=-1), expected[0])
    assert torch.equal(of_prob.isnan(), expected[1])


@pytest.mark.parametrize("std", [0.0, -1.0, torch.inf])
def test_what_is_no_standard_deviation_is_answered_as_by_a_logarithm(std):
    std, some = torch.full((1, 1, 1), std), torch.zeros(1, 1)
    nll, _ = transition_loss(torch.zeros(1, 1, 1), std, some, some.view(1, 1, 1) + 1, some.bool(), max_score=1.0)
    torch.testing.assert_close(nll, std.log().view(1, 1) + 0.5 * math.log(2 * math.pi) + 0.5, equal_nan=True)


def test_its_gradients_can_not_be_differentiated_again():
    rows = draw(1, 3, 2)
    leaf = rows[0].detach().requires_grad_()
    nll, _ = transition_loss(leaf, *rows[1:], max_score=MAX_SCORE)
    with pytest.raises(RuntimeError, match="can't be differentiated again, expected compile=False"):
        grad(nll.sum(), leaf, create_graph=True)
