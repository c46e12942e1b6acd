"""The counter of live bytes, on tensors whose sizes are known."""

import torch

from tests.live_bytes import LiveBytes


def test_tensors_count_while_they_live():
    with LiveBytes() as memory:
        x = torch.zeros(100)
        assert memory.now == 400
        y = x + 1
        assert memory.now == 800
        del x
        assert memory.now == 400
        del y
        assert memory.now == 0
    assert memory.peak == 800


def test_views_and_changes_in_place_are_free():
    outside = torch.zeros(100)
    with LiveBytes() as memory:
        x = torch.zeros(100)
        views = x[::2], x.view(10, 10).T, outside[3:], outside.expand(5, 100)
        x += 1
        outside += 1
        outside.mul_(2.0)
    assert memory.peak == memory.now == 400
    assert len(views) == 4


def test_what_an_expression_needs_on_its_way_counts_at_the_peak():
    outside = torch.ones(100)
    with LiveBytes() as memory:
        total = ((outside + 1) * 2).sum()
    assert memory.peak >= 800
    assert memory.now == total.nbytes


def test_results_kept_for_the_backward_pass_count():
    weight = torch.ones(100, requires_grad=True)
    with LiveBytes() as memory:
        loss = weight.exp().exp().sum()
        assert memory.now > 800
        loss.backward()
        del loss
        assert memory.now == 400  # the gradient
