"""ProbFCDynamics: shapes, bounds and what it says before it has learned."""

import math

import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics

STATE = Box(-torch.inf, torch.inf, (3,))
ACTION = Box(-1.0, 1.0, (2,))
CONTEXT = Box(-1.0, 1.0, (4,))


def make(context_space=None, n_modes=2, **settings):
    return ProbFCDynamics(STATE, context_space, ACTION, n_modes, **settings)


@pytest.mark.parametrize("leading", [(), (5,), (4, 5), (2, 3, 4), (0,)])
@pytest.mark.parametrize("n_modes", [1, 3])
@pytest.mark.parametrize("context_size", [None, 4])
def test_outputs_have_the_leading_dims_of_the_inputs(leading, n_modes, context_size):
    net = make(None if context_size is None else CONTEXT, n_modes)
    context = None if context_size is None else torch.randn(*leading, context_size)
    (mean, std), weights, term_prob = net(torch.randn(*leading, 3), context, torch.randn(*leading, 2))
    assert mean.shape == std.shape == (*leading, n_modes, 3)
    assert weights.shape == (*leading, n_modes)
    assert term_prob.shape == leading


def test_rows_do_not_influence_each_other():
    net, state, action = make(), torch.randn(4, 3), torch.randn(4, 2)
    (together, _), _, _ = net(state, None, action)
    (alone, _), _, _ = net(state[2], None, action[2])
    torch.testing.assert_close(together[2], alone)


def test_every_input_matters():
    net = make(CONTEXT)
    inputs = [torch.randn(size, requires_grad=True) for size in (3, 4, 2)]
    (mean, _), _, _ = net(*inputs)
    mean.sum().backward()
    assert all((x.grad != 0).all() for x in inputs)


def test_discrete_spaces_are_read_and_foretold_one_hot():
    net = ProbFCDynamics(Discrete(5), Discrete(4, start=1), Discrete(3, start=7), n_modes=2)
    (mean, std), _, _ = net(torch.eye(5), torch.eye(4)[[0, 1, 2, 3, 0]], torch.eye(3)[[0, 1, 2, 0, 1]])
    assert mean.shape == std.shape == (5, 2, 5)


def test_weights_are_probabilities():
    _, weights, term_prob = make(n_modes=4)(torch.randn(50, 3), None, torch.randn(50, 2))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(50))
    assert (weights > 0).all()
    assert ((term_prob > 0) & (term_prob < 1)).all()


def test_before_learning_an_end_is_improbable():
    _, _, term_prob = make()(torch.randn(500, 3), None, torch.randn(500, 2))
    assert term_prob.max() < 0.1
    assert term_prob.mean().item() == pytest.approx(0.018, abs=0.01)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("bounds", [(-5.0, 0.25), (-2.0, 3.0)])
def test_std_keeps_its_bounds_for_extreme_inputs(scale, bounds):
    net = make(min_log_std=bounds[0], max_log_std=bounds[1])
    (mean, std), weights, term_prob = net(scale * torch.randn(500, 3), None, scale * torch.randn(500, 2))
    assert std.min() >= math.exp(bounds[0]) * 0.9999
    assert std.max() <= math.exp(bounds[1]) * (1 + math.exp(bounds[0] - bounds[1])) * 1.0001
    assert all(x.isfinite().all() for x in (mean, weights, term_prob))


def test_settings_reach_the_net():
    net = make(hidden_sizes=(7, 5, 6), nonlinearity=nn.SiLU)
    assert [layer.out_features for layer in net.net if isinstance(layer, nn.Linear)] == [7, 5, 6, 2 * 2 * 3 + 2 + 1]
    assert sum(isinstance(layer, nn.SiLU) for layer in net.net) == 3
    assert make(hidden_sizes=())(torch.randn(5, 3), None, torch.randn(5, 2))[2].shape == (5,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_modes": 0}, r"n_modes: got 0, expected"),
        ({"min_log_std": 1.0, "max_log_std": 0.0}, r"min_log_std: got 1\.0, expected"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)
