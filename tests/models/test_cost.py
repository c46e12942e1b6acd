"""What steps of rollouts and training cost: operations, not seconds, so that no change slows them unseen."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from layeredrl.nets.turns import BLOCK_ROWS, ROWS_FOR_TURNS
from layeredrl.training.member_adamw import MemberAdamW
from tests.compiler import needs_compiler
from tests.models.ensembles import NET, draw, make_batch, make_ensemble

# What a step is made of, apart from the products, biases and activations of members that take turns.
MOST_OF_A_STEP = 57
MOST_OF_A_PREDICTION = 48
MOST_OF_A_TRAINING_STEP, MOST_OF_A_FUSED_TRAINING_STEP = 154, 61


class Calls(TorchDispatchMode):
    """Counts the operations inside of it."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def calls_per_step(n_rows, *, n_models=3, n_modes=2, n_particles=2, **more):
    """Operations of one more step, for `n_rows` of each member."""
    settings = {"n_models": n_models, "n_modes": n_modes, "n_particles_per_model": n_particles}
    model = make_ensemble(**settings, **more)
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
    n_layers = len(NET.keywords["hidden_sizes"]) + 1
    # A product and a bias a layer, and the activations between; views of memory, and its parts.
    layers = 2 * n_layers + n_layers - 1
    growth = calls_per_step(MANY, n_models=4) - calls_per_step(MANY, n_models=3)
    assert layers <= growth <= 4 * layers


def test_more_rows_than_fit_the_cache_take_only_the_layers_of_each_further_block(unchecked):
    one, two, three = (calls_per_step(n * BLOCK_ROWS) for n in (1, 2, 3))
    assert two - one == three - two
    assert calls_per_step(MANY) == one


@torch.no_grad()
def test_a_prediction_takes_as_many_operations_for_any_number_of_members_and_rows(unchecked):
    def calls_per_prediction(n_models, n_rows):
        model = make_ensemble(n_models=n_models)
        query = draw(model.state_space, n_rows), None, draw(model.action_space, n_rows)
        model.predict(*query)  # prepares its checks
        with Calls() as calls:
            model.predict(*query)
        return calls.n

    expected = calls_per_prediction(3, 16)
    assert expected < MOST_OF_A_PREDICTION
    assert calls_per_prediction(7, 64) == expected


@pytest.mark.parametrize(
    ("compile", "most"),
    [(False, MOST_OF_A_TRAINING_STEP), pytest.param(True, MOST_OF_A_FUSED_TRAINING_STEP, marks=needs_compiler)],
)
def test_a_training_step_takes_as_many_operations_for_any_number_of_members_and_rows(compile, most, unchecked):
    def calls_per_training_step(n_models, n_rows):
        model = make_ensemble(n_models=n_models, compile=compile)
        settings = {"learning_rate": 1e-3, "weight_decay": 1e-5, "max_norm": 10.0}
        optimizer = MemberAdamW(model.get_parameters(), **settings, compile=compile)
        batch = make_batch(n_rows).map(lambda value: value.expand(n_models, *value.shape))
        with Calls() as calls:
            model.get_member_losses(batch).sum().backward()
            optimizer.step()
        return calls.n

    expected = calls_per_training_step(3, 16)
    assert expected < most
    assert calls_per_training_step(7, 64) == expected


@needs_compiler
def test_fused_layers_are_one_operation_for_any_number_of_rows_members_and_layers(unchecked):
    expected = calls_per_step(FEW, compile=True)
    n_layers = len(NET.keywords["hidden_sizes"]) + 1
    assert expected <= calls_per_step(FEW) - 2 * n_layers
    deep = partial(NET, hidden_sizes=(8, 8, 8, 8))
    for more in ({"n_models": 7}, {"net": deep}):
        assert calls_per_step(FEW, compile=True, **more) == expected
    assert calls_per_step(2 * BLOCK_ROWS, compile=True) == expected
