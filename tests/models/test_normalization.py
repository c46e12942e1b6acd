"""RunningMoments against the moments of all rows, and against a plain loop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layeredrl.models.normalization import RunningMoments


def make_batches(n_batches, n_rows=8, size=3):
    """Batches of different means and scales."""
    return [
        torch.randn(n_rows, size) * (1 + i) * torch.tensor([1e-3, 1.0, 30.0]) + 0.5 * i for i in range(n_batches)
    ]


@given(st.integers(1, 10), st.integers(1, 12))
def test_the_first_batches_count_alike(n_batches, n_rows):
    """Up to 1 / momentum of them: mean and variance of all rows together."""
    moments, batches = RunningMoments(3, momentum=0.1), make_batches(n_batches, n_rows)
    for batch in batches:
        moments.update(batch)
    var, mean = torch.var_mean(torch.cat(batches), dim=0, correction=0)
    torch.testing.assert_close(moments.mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moments.var, var, rtol=1e-4, atol=1e-7)


def test_later_batches_fade_exponentially():
    """Running moments of order one and two, by a plain loop in double precision."""
    moments, batches = RunningMoments(3, momentum=0.25), make_batches(20)
    first, second = torch.zeros(3).double(), torch.zeros(3).double()
    for i, batch in enumerate(batches):
        moments.update(batch)
        share = max(1 / (i + 1), 0.25)
        first = (1 - share) * first + share * batch.double().mean(dim=0)
        second = (1 - share) * second + share * batch.double().square().mean(dim=0)
    torch.testing.assert_close(moments.mean.double(), first, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moments.var.double(), second - first.square(), rtol=1e-3, atol=1e-6)


def test_it_starts_as_the_identity():
    moments, x = RunningMoments(3, momentum=0.1), torch.randn(5, 3)
    assert torch.equal(moments.standardize(x), x)


def test_standardised_rows_have_mean_zero_and_std_one():
    moments, batch = RunningMoments(3, momentum=0.1), make_batches(1, 500)[0]
    moments.update(batch)
    x = moments.standardize(batch)
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(dim=0, correction=0), torch.ones(3))


@given(st.floats(-1e6, 1e6, width=32), st.integers(1, 50))
def test_a_constant_dimension_has_scale_one(constant, n_rows):
    moments = RunningMoments(2, momentum=0.1)
    for _ in range(15):
        moments.update(torch.stack([torch.full((n_rows,), constant), torch.randn(n_rows)], dim=1))
    assert moments.scale[0] == 1
    assert moments.mean[0].item() == pytest.approx(constant, rel=1e-5)


def test_a_small_scale_is_not_taken_for_a_constant():
    moments = RunningMoments(3, momentum=0.1)
    x = torch.randn(1000, 3) * torch.tensor([1e-8, 1e-3, 1.0]) + torch.tensor([0.0, 10.0, 1000.0])
    moments.update(x)
    torch.testing.assert_close(moments.scale, x.std(dim=0, correction=0))


def test_a_batch_of_one_makes_no_nan():
    moments, x = RunningMoments(3, momentum=0.1), torch.randn(2, 3)
    moments.update(x[:1])
    assert torch.equal(moments.scale, torch.ones(3))
    assert torch.equal(moments.standardize(x[:1]), torch.zeros(1, 3))
    moments.update(x[1:])
    torch.testing.assert_close(moments.var, x.var(dim=0, correction=0))


def test_masked_rows_do_not_count():
    moments, expected, x = RunningMoments(3, momentum=0.1), RunningMoments(3, momentum=0.1), torch.randn(6, 3)
    mask = torch.tensor([True, False, True, True, False, True])
    poisoned = torch.where(mask.unsqueeze(1), x, float("nan"))
    moments.update(poisoned, mask)
    expected.update(x[mask])
    assert torch.equal(moments.mean, expected.mean)
    assert torch.equal(moments.var, expected.var)


def test_an_empty_batch_changes_nothing():
    moments = RunningMoments(3, momentum=0.1)
    moments.update(torch.randn(5, 3))
    before = {name: value.clone() for name, value in moments.state_dict().items()}
    moments.update(torch.randn(5, 3), torch.zeros(5, dtype=torch.bool))
    moments.update(torch.zeros(0, 3))
    assert all(torch.equal(value, before[name]) for name, value in moments.state_dict().items())


def test_after_a_reset_the_next_batch_counts_alone():
    moments, batches = RunningMoments(3, momentum=0.1), make_batches(5)
    for batch in batches[:4]:
        moments.update(batch)
    kept = moments.mean.clone()
    moments.reset()
    assert torch.equal(moments.mean, kept)
    moments.update(batches[4])
    var, mean = torch.var_mean(batches[4], dim=0, correction=0)
    torch.testing.assert_close(moments.mean, mean)
    torch.testing.assert_close(moments.var, var)


def test_state_dict_carries_everything():
    moments, copy, batches = RunningMoments(3, momentum=0.1), RunningMoments(3, momentum=0.1), make_batches(4)
    for batch in batches[:3]:
        moments.update(batch)
    copy.load_state_dict(moments.state_dict())
    for each in (moments, copy):
        each.update(batches[3])
    assert torch.equal(copy.mean, moments.mean)
    assert torch.equal(copy.var, moments.var)


def test_updating_keeps_no_gradient_graph_and_writes_to_no_input():
    moments, x = RunningMoments(3, momentum=0.1), torch.randn(5, 3, requires_grad=True)
    before = x.detach().clone()
    moments.update(x)
    assert not moments.mean.requires_grad
    assert torch.equal(x, before)
