"""Unrolling an ensemble: the steps of its rollout, whatever the spaces, and however few rows are read at a time."""

import pytest
import torch

from layeredrl.models.propagation import MERGE
from tests.contracts.model_contract import assert_steps_are_those_of, tensors_of
from tests.models.ensembles import ACTION, CONTEXT, DISCRETE, NESTED, draw, make_ensemble, make_fixed
from tests.models.rollout_only import RolloutOnly

SPACES = {
    "box": (None, ACTION),
    "discrete-in-context": (CONTEXT, DISCRETE),
    "dict-in-dict": (NESTED, NESTED),
}


def make(context_space, action_space, **settings):
    shape = {"n_models": 3, "n_modes": 2, "n_particles_per_model": 2}
    return make_ensemble(context_space=context_space, action_space=action_space, **{**shape, **settings})


def start(model, n=5, horizon=3):
    return draw(model.state_space, n), draw(model.context_space, n), draw(model.action_space, n, horizon)


def seeded():
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("spaces", SPACES.values(), ids=SPACES.keys())
@pytest.mark.parametrize("propagation", MERGE)
def test_unroll_yields_the_steps_of_rollout(propagation, spaces):
    model = make(*spaces)
    inputs = start(model)
    for more in ({}, {"members": torch.tensor([2, 0])}, {"deterministic": True}):
        settings = {"propagation": propagation, **more}
        rollout = model.rollout(*inputs, **settings, generator=seeded())
        assert_steps_are_those_of(rollout, list(model.unroll(*inputs, **settings, generator=seeded())))


@pytest.mark.parametrize("deterministic", [False, True], ids=["drawn", "mean"])
@pytest.mark.parametrize("propagation", MERGE)
def test_a_model_that_only_rolls_out_yields_the_same_steps(propagation, deterministic):
    model = make(CONTEXT, ACTION)
    inputs, settings = start(model), {"propagation": propagation, "members": torch.tensor([2, 0])}
    own, default = (
        list(m.unroll(*inputs, deterministic, **settings, generator=seeded())) for m in (model, RolloutOnly(model))
    )
    for step, expected in zip(default, own, strict=True):
        for (name, got), value in zip(tensors_of(step).items(), tensors_of(expected).values(), strict=True):
            assert got.shape == value.shape, name
            assert torch.equal(got, value), name


@pytest.mark.parametrize("spaces", SPACES.values(), ids=SPACES.keys())
@pytest.mark.parametrize("propagation", MERGE)
@pytest.mark.parametrize("max_rows", [1, 7, 10])
def test_rows_that_are_read_at_a_time_make_no_difference(max_rows, propagation, spaces):
    """Seven of the ten rows of a member cut through its second particles; ten are all."""
    model = make(*spaces)
    inputs, settings = start(model), {"propagation": propagation, "members": torch.tensor([0, 2])}
    steps = model.unroll(*inputs, **settings, generator=seeded(), max_rows=max_rows)
    for step, expected in zip(steps, model.unroll(*inputs, **settings, generator=seeded()), strict=True):
        torch.testing.assert_close(tensors_of(step), tensors_of(expected), rtol=1e-4, atol=1e-4)


def test_no_network_reads_more_rows_than_allowed():
    model, n_read = make(CONTEXT, ACTION, n_particles_per_model=4), []
    model.members.nets.members.register_forward_pre_hook(lambda _, inputs: n_read.append(inputs[0].shape[1]))
    list(model.unroll(*start(model, n=5, horizon=2), max_rows=8))
    assert n_read == [8, 8, 4] * 2


def test_steps_are_made_one_at_a_time():
    """The second step isn't made before it is asked for: the generator stays where it is."""
    model, generator = make_fixed({"offset": 0.0, "std": 0.1}), seeded()
    steps = model.unroll(*start(model), generator=generator)
    next(steps)
    after_one = generator.get_state()
    next(steps)
    assert not torch.equal(generator.get_state(), after_one)


def test_wrong_inputs_are_refused_before_the_first_step(unchecked):
    model = make(CONTEXT, ACTION)
    state, context, actions = start(model)
    with pytest.raises(ValueError, match="context: got None, expected rows of Box"):
        model.unroll(state, None, actions)
    with pytest.raises(ValueError, match=r"actions: got shape \(5, 2\), expected \(B, H, A\)"):
        model.unroll(state, context, actions[:, 0])
    with pytest.raises(ValueError, match="propagation: got 'ts2', expected one of ts_inf"):
        model.unroll(state, context, actions, propagation="ts2")


def test_a_number_of_rows_below_one_is_refused():
    model = make_ensemble()
    with pytest.raises(ValueError, match=r"max_rows: got 0, expected at least 1"):
        model.unroll(torch.zeros(2, 3), None, torch.zeros(2, 4, 2), max_rows=0)
