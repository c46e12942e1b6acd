"""RandomDynamics: a fixed random world, and how it fades."""

import pytest
import torch

from layeredrl.models.propagation import MemberPrediction
from layeredrl.models.symmetry_breaking import RANDOM_STD, RandomDynamics, blend


def make(n_states=4, n_actions=2, *, factor=1.5, duration=1000):
    return RandomDynamics(n_states, n_actions, factor=factor, duration=duration)


@pytest.mark.parametrize(("n_states", "n_actions"), [(4, 2), (3, 3), (5, 1), (1, 1)])
def test_columns_are_orthonormal(n_states, n_actions):
    columns = make(n_states, n_actions).map
    torch.testing.assert_close(columns.T @ columns, torch.eye(n_actions), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("n_states", "n_actions"), [(2, 5), (1, 3)])
def test_rows_are_orthonormal_if_actions_outnumber_states(n_states, n_actions):
    rows = make(n_states, n_actions).map
    torch.testing.assert_close(rows @ rows.T, torch.eye(n_states), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("n_steps", "share"),
    [(0, 1.0), (250, 1.0), (500, 1.0), (625, 0.75), (750, 0.5), (1000, 0.0), (1001, 0.0), (10**9, 0.0)],
)
def test_the_random_answer_fades_from_half_the_duration_on(n_steps, share):
    assert make(duration=1000).share(n_steps) == pytest.approx(share)


def test_it_is_drawn_from_torchs_global_generator():
    maps = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        maps.append(make().map)
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


def test_it_is_kept_in_the_state_dict_and_not_trained():
    first, second = make(), make()
    assert not torch.equal(first.map, second.map)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.map, second.map)
    assert list(first.parameters()) == []


def test_actions_move_by_their_length_times_the_factor():
    dynamics, action = make(factor=1.5), torch.randn(3, 5, 2)
    movement = dynamics.movement(action)
    assert movement.shape == (3, 5, 4)
    torch.testing.assert_close(movement.norm(dim=-1), 1.5 * action.norm(dim=-1))
    torch.testing.assert_close(movement[1, 2], 1.5 * dynamics.map @ action[1, 2])
    torch.testing.assert_close(dynamics.movement(2 * action), 2 * movement)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_blend_interpolates_everything_but_the_weights(share):
    learned = MemberPrediction(
        torch.randn(2, 5, 3, 4),
        torch.rand(2, 5, 3, 4),
        torch.rand(2, 5, 3),
        torch.rand(2, 5),
        origin=torch.randn(2, 5, 4),
        scale=torch.rand(4),
    )
    random_mean = torch.randn(2, 5, 4)
    blended = blend(share, random_mean, learned)
    for mode in range(3):
        learned_mean = learned.origin + learned.scale * learned.mean[:, :, mode]
        expected = share * random_mean + (1 - share) * learned_mean
        torch.testing.assert_close(blended.next_mean[:, :, mode], expected)
    torch.testing.assert_close(blended.next_std, share * RANDOM_STD + (1 - share) * learned.scale * learned.std)
    torch.testing.assert_close(blended.term_prob, (1 - share) * learned.term_prob)
    assert torch.equal(blended.weights, learned.weights)
