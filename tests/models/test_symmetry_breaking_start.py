"""The schedule of the symmetry-breaking start, as an ensemble plays it."""

import pytest
import torch

from tests.models.ensembles import ACTION, DISCRETE, draw, make_ensemble

DURATION = 1000


def start_model(**settings):
    return make_ensemble(
        n_models=2,
        n_modes=2,
        symmetry_breaking_start=True,
        sb_start_duration=DURATION,
        sb_start_factor=2.0,
        **settings,
    )


@pytest.mark.parametrize(("n_steps", "share"), [(0, 1.0), (500, 1.0), (750, 0.5), (1000, 0.0), (5000, 0.0)])
@pytest.mark.parametrize("action_space", [ACTION, DISCRETE], ids=["box", "discrete"])
def test_predictions_fade_from_random_to_learned(n_steps, share, action_space):
    model = start_model(action_space=action_space)
    state, action = torch.randn(5, 3), draw(action_space, 5)
    learned = model.predict(state, None, action, loss_mode=True)
    model.set_n_total_env_steps(n_steps)
    got = model.predict(state, None, action)
    code = torch.eye(4)[action[:, 0] - 1] if action_space is DISCRETE else action
    random_mean = state + 2.0 * code @ model.random_dynamics.map.T
    expected = share * random_mean[:, None, None] + (1 - share) * learned.mean
    torch.testing.assert_close(got.mean, expected)
    torch.testing.assert_close(got.std, share * 0.3 + (1 - share) * learned.std)
    torch.testing.assert_close(got.term_prob, (1 - share) * learned.term_prob)
    torch.testing.assert_close(got.weights, learned.weights)


def test_rollouts_and_densities_start_random_too_except_in_loss_mode():
    model = start_model()
    state, actions = torch.randn(4, 3), draw(ACTION, 4, 3)
    movement = 2.0 * actions @ model.random_dynamics.map.T
    rollout = model.rollout(state, None, actions, deterministic=True)
    expected = torch.cat([state[:, None], state[:, None] + movement.cumsum(dim=1)], dim=1)
    torch.testing.assert_close(rollout.state[:, 1, 0], expected)
    learned = model.rollout(state, None, actions, deterministic=True, loss_mode=True)
    assert not torch.allclose(learned.state, rollout.state)
    next_state = state + movement[:, 0]
    log_prob = model.get_log_prob(state, None, actions[:, 0], next_state)[0]
    peak = -3 * torch.tensor(0.3 * (2 * torch.pi) ** 0.5).log()
    torch.testing.assert_close(log_prob, peak.expand(4))
    assert not torch.allclose(
        model.get_log_prob(state, None, actions[:, 0], next_state, loss_mode=True)[0], log_prob
    )


def test_the_random_map_is_drawn_from_torchs_generator_and_kept():
    torch.manual_seed(5)
    first = start_model()
    torch.manual_seed(5)
    again = start_model()
    other = start_model()
    assert torch.equal(first.random_dynamics.map, again.random_dynamics.map)
    assert not torch.equal(first.random_dynamics.map, other.random_dynamics.map)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.random_dynamics.map, other.random_dynamics.map)
