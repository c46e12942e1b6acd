"""State coordinates that the networks of an ensemble don't read, but foretell."""

from dataclasses import replace

import pytest
import torch

from tests.models.ensembles import make_batch, make_ensemble, query

HIDDEN, VISIBLE = [0, 2], [1]


def make(normalize_inputs=True, **settings):
    settings = {"n_models": 3, "hidden_states": HIDDEN, **settings}
    return make_ensemble(normalize_inputs=normalize_inputs, **settings)


def change(prediction, state):
    """What the members say of the change of the state."""
    return prediction.mean - state[:, None, None]


def moved(state, coordinates, by=3.0):
    state = state.clone()
    state[:, coordinates] += by
    return state


@pytest.mark.parametrize("normalize_inputs", [True, False])
def test_hidden_coordinates_have_no_influence(normalize_inputs):
    model = make(normalize_inputs)
    state, context, action = query(model, 5)
    before, after = (model.predict(x, context, action) for x in (state, moved(state, HIDDEN)))
    torch.testing.assert_close(change(after, moved(state, HIDDEN)), change(before, state))
    for got, expected in zip(after[1:], before[1:], strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("normalize_inputs", [True, False])
def test_visible_coordinates_have_some(normalize_inputs):
    model = make(normalize_inputs)
    state, context, action = query(model, 5)
    before, after = (model.predict(x, context, action) for x in (state, moved(state, VISIBLE)))
    differences = change(after, moved(state, VISIBLE)) - change(before, state)
    assert (differences.abs().amax(dim=(0, 2, 3)) > 0.01).all()  # for every member
    assert not torch.allclose(after.std, before.std)


@pytest.mark.parametrize("normalize_inputs", [True, False])
def test_gradients_know_no_hidden_coordinates(normalize_inputs):
    """Neither those of states nor those of weights, which learn nothing from them."""
    model = make(normalize_inputs)
    state, context, action = query(model, 5)
    state.requires_grad_()
    prediction = model.predict(state, context, action)
    (gradient,) = torch.autograd.grad(change(prediction, state).sum() + prediction.std.sum(), state)
    assert not gradient[:, HIDDEN].any()
    assert gradient[:, VISIBLE].all()

    model.loss(make_batch(20)).backward()
    first_layer = next(model.get_parameters())
    assert first_layer.shape[-1] == 3 + 2  # (E, width, states and actions)
    assert not first_layer.grad[..., HIDDEN].any()
    assert first_layer.grad[..., VISIBLE].any()


def test_hidden_coordinates_are_foretold_from_where_they_are():
    model = make(n_particles_per_model=2)
    state, context, action = query(model, 4)
    actions = action[:, None].expand(4, 5, 2)
    paths = [
        model.rollout(x, context, actions, generator=torch.Generator().manual_seed(0)).state
        for x in (state, moved(state, HIDDEN))
    ]
    by = torch.tensor([3.0, 0.0, 3.0])
    torch.testing.assert_close(paths[1] - paths[0], by.expand_as(paths[0]), rtol=0, atol=1e-4)
    assert (paths[0].diff(dim=3).abs().amax(dim=(0, 1, 2, 3)) > 0).all()


def test_hidden_coordinates_are_learned_like_others():
    """They fall by a steady amount, which has to be seen from the targets alone."""
    model = make(n_models=1, create_optimizer=True, learning_rate=0.03, normalize_targets=False)
    batch = make_batch(100)
    batch = replace(batch, next_state=batch.state - 2.0)
    model.learn([batch] * 40)
    assert (change(model.predict(batch.state, None, batch.action), batch.state) + 2.0).abs().max() < 0.7


def test_what_is_hidden_survives_a_state_dict():
    """It is the constructor's: weights and statistics are loaded, settings stay."""
    model, other = make(), make(statistics=False)
    other.load_state_dict(model.state_dict())
    inputs = query(model, 5)
    for got, expected in zip(other.predict(*inputs), model.predict(*inputs), strict=True):
        assert torch.equal(got, expected)
    state, context, action = inputs
    hiding_others = make(hidden_states=VISIBLE, statistics=False)
    hiding_others.load_state_dict(model.state_dict())
    after = moved(state, VISIBLE)
    torch.testing.assert_close(
        change(hiding_others.predict(after, context, action), after),
        change(hiding_others.predict(*inputs), state),
    )


@pytest.mark.parametrize("bad", [[3], [-1], [0, 7], [1.5], ["x"]])
def test_indices_that_name_no_coordinate_are_refused(bad, unchecked):
    with pytest.raises(ValueError, match=r"hidden_states: got \[.*\], expected indices in 0 … 2"):
        make(hidden_states=bad)
