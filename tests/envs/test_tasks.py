"""Rewards and terminations of known tasks, against ten thousand steps of the real environments."""

import numpy as np
import pytest
import torch

from layeredrl.envs.task import Task, never
from layeredrl.envs.tasks import TASKS
from layeredrl.spaces import row_size
from tests.envs.recording import N_STEPS, make, record

ALL_TASKS = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
# Two environments don't show all that their rewards are made of: the rewards' docstrings say what is missing.
EXACT = [env_id for env_id in TASKS if env_id not in ("InvertedDoublePendulum-v5", "Ant-v5")]
ENDING = [env_id for env_id, task in TASKS.items() if task.termination is not never]


def reward_error(env_id: str) -> torch.Tensor:
    steps = record(env_id)
    return TASKS[env_id].reward(*steps.transition()) - steps.reward


@pytest.mark.parametrize("env_id", EXACT)
def test_rewards_are_the_real_ones(env_id):
    assert reward_error(env_id).abs().max() < 2e-6


def test_double_pendulums_reward_is_the_real_one_while_its_speeds_show():
    """In all but a few steps: where observations clip the speeds, or the rail ends, the error is larger."""
    speeds, rail_force = record("InvertedDoublePendulum-v5").next_state[:, 6:].split([2, 1], dim=1)
    shown = (speeds.abs() < 10).all(dim=1) & (rail_force == 0).squeeze(dim=1)
    error = reward_error("InvertedDoublePendulum-v5").abs()
    assert shown.double().mean() > 0.995
    assert error[shown].max() < 3e-4
    assert error.max() < 2


def test_ants_reward_is_the_real_one_on_average():
    """What one step gets too much, the next gets too little."""
    error = reward_error("Ant-v5")
    assert error.square().mean().sqrt() < 0.01
    assert error.cumsum(dim=0).abs().max() < 0.2


@ALL_TASKS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_terminations_are_exactly_the_real_ones(task: Task, dtype):
    ended = task.termination(*record(task.env_id).transition(dtype))
    assert ended.dtype == torch.bool
    assert torch.equal(ended, record(task.env_id).terminated)


@ALL_TASKS
def test_single_precision_adds_no_more_than_rounding(task: Task):
    single, double = (task.reward(*record(task.env_id).transition(t)) for t in (torch.float32, torch.float64))
    assert single.dtype == torch.float32
    assert (single.double() - double).abs().max() < 1e-4


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "CartPole-v1", "Acrobot-v1"])
def test_rewards_that_only_count_steps_are_exact_to_the_last_bit(env_id):
    assert torch.equal(TASKS[env_id].reward(*record(env_id).transition()), record(env_id).reward)


@pytest.mark.parametrize("env_id", ENDING)
def test_the_recording_holds_endings_and_other_steps(env_id):
    assert 10 < record(env_id).terminated.sum() < N_STEPS / 2


def test_clauses_of_running_rewards_and_terminations_all_occur():
    """Walkers fall and lean, ants jump and touch the floor, and rewards pay forward and backward motion alike."""
    walker, ant = record("Walker2d-v5"), record("Ant-v5")
    height, angle = walker.next_state[:, 1], walker.next_state[:, 2].abs()
    assert (height <= 0.8).sum() > 10
    assert (angle >= 1).sum() > 10
    assert (ant.next_state[:, 2] > 1).sum() > 10
    contact = (ant.next_state[:, 29:] != 0).any(dim=1)
    assert 1_000 < contact.sum() < 9_900
    for env_id in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Swimmer-v5"):
        steps = record(env_id)
        moved = steps.next_state[:, 0] - steps.state[:, 0]
        assert (moved > 0).sum() > 300
        assert (moved < 0).sum() > 300


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "MountainCarContinuous-v0"])
def test_the_recording_holds_forces_beyond_the_limits(env_id):
    assert (record(env_id).action.abs() > make(TASKS[env_id]).action_space.high.item()).sum() > 500


@ALL_TASKS
def test_functions_broadcast_over_leading_dims(task: Task):
    """States of particles `(B, E, P, H, S)`, actions of plans `(B, 1, 1, H, A)`: as one by one."""
    state, _, action, next_state = (x if x is None else x[:24] for x in record(task.env_id).transition())
    states, next_states = (x.reshape(2, 2, 3, 2, -1) for x in (state, next_state))
    actions = action.reshape(2, 2, 3, 2, -1)[:, :1, :1]
    context = torch.zeros(2, 1, 1, 1, 2)
    for function in (task.reward, task.termination):
        got = function(states, context, actions, next_states)
        assert got.shape == (2, 2, 3, 2)
        for b, e, p, h in np.ndindex(2, 2, 3, 2):
            alone = function(states[b, e, p, h], None, actions[b, 0, 0, h], next_states[b, e, p, h])
            assert torch.allclose(got[b, e, p, h], alone, rtol=1e-12, atol=1e-12)


@ALL_TASKS
def test_one_state_meets_many_actions(task: Task):
    """States `(B, 1, S)`, actions `(1, N, A)`, next states `(B, N, S)`."""
    state, _, action, next_state = (x if x is None else x[:6] for x in record(task.env_id).transition())
    arguments = state[:2, None], None, action[None, :3], next_state.reshape(2, 3, -1)
    for function in (task.reward, task.termination):
        got = function(*arguments)
        each = function(state[:2].repeat_interleave(3, dim=0), None, action[:3].repeat(2, 1), next_state)
        assert torch.allclose(got, each.reshape(2, 3), rtol=1e-12, atol=1e-12)


@ALL_TASKS
def test_states_and_actions_have_the_sizes_of_the_environment(task: Task):
    env, steps = make(task), record(task.env_id)
    assert steps.state.shape[1] == row_size(env.observation_space)
    assert steps.action.shape[1] == row_size(env.action_space)
    assert all(0 <= i < steps.state.shape[1] for i in task.hidden)
