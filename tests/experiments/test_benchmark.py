"""The benchmark counts what it says."""

import pytest
import torch

from experiments import benchmark
from experiments.benchmark import Args, forward_flops, main, medians


def test_flops_are_those_of_the_products_that_a_net_does():
    net = benchmark.NET(benchmark.STATE_SPACE, None, benchmark.ACTION_SPACE)
    products = sum(2 * layer.weight.numel() for layer in net.modules() if isinstance(layer, torch.nn.Linear))
    # The head has one more output than needed: the weight of the only mode and the termination.
    assert forward_flops() == products


def test_calls_take_turns_after_a_warm_up():
    order = []
    seconds = medians(2, lambda: order.append("a"), lambda: order.append("b"))
    assert order == ["a", "b"] * 3
    assert len(seconds) == 2


def test_unknown_measurements_are_refused():
    with pytest.raises(SystemExit, match="--only: got speed, expected some of rollout, train, plan, policy"):
        main(Args(only=("speed",)))
