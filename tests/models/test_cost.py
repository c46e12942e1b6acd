"""What a step of a rollout costs, counted in operations rather than seconds, so that no change slows it unseen."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.nets.turns import BLOCK_ROWS, ROWS_FOR_TURNS
from tests.models.ensembles import draw, make_ensemble

HIDDEN_SIZES = (16, 16)
# What a step is made of, apart from the products, biases and activations of members that take turns.
MOST_OF_A_STEP = 75


class Calls(TorchDispatchMode):
    """Counts the operations inside of it."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def calls_per_step(n_rows, *, n_models=3, n_modes=2, n_particles=2):
    """Operations of one more step, for `n_rows` of each member."""
    net = partial(ProbFCDynamics, hidden_sizes=HIDDEN_SIZES, nonlinearity=nn.SiLU)
    settings = {"n_models": n_models, "n_modes": n_modes, "n_particles_per_model": n_particles}
    model = make_ensemble(net=net, **settings)
    state = draw(model.state_space, n_rows // n_particles)
    counts = []
    for horizon in (1, 2, 3):  # the first query also prepares its checks
        actions = draw(model.action_space, n_rows // n_particles, horizon)
        with Calls() as calls:
            for _ in model.unroll(state, None, actions):
                pass
        counts.append(calls.n)
    return counts[2] - counts[1]


FEW, MANY = 64, ROWS_FOR_TURNS


@pytest.mark.parametrize("n_rows", [FEW, MANY])
def test_a_step_takes_as_many_operations_for_any_batch_and_number_of_particles(n_rows, unchecked):
    expected = calls_per_step(n_rows)
    assert calls_per_step(2 * n_rows) == expected
    assert calls_per_step(2 * n_rows, n_particles=8) == expected


def test_a_step_takes_as_many_operations_for_any_number_of_modes(unchecked):
    assert calls_per_step(FEW, n_modes=7) == calls_per_step(FEW, n_modes=2)


def test_few_rows_take_as_many_operations_for_any_number_of_members(unchecked):
    expected = calls_per_step(FEW)
    assert expected < MOST_OF_A_STEP
    assert calls_per_step(FEW, n_models=7) == expected


def test_many_rows_take_only_the_layers_of_each_further_member(unchecked):
    n_layers = len(HIDDEN_SIZES) + 1
    # A product and a bias a layer, and the activations between; views of memory, and its parts.
    layers = 2 * n_layers + n_layers - 1
    growth = calls_per_step(MANY, n_models=4) - calls_per_step(MANY, n_models=3)
    assert layers <= growth <= 4 * layers


def test_more_rows_than_fit_the_cache_take_only_the_layers_of_each_further_block(unchecked):
    one, two, three = (calls_per_step(n * BLOCK_ROWS) for n in (1, 2, 3))
    assert two - one == three - two
    assert calls_per_step(MANY) == one
