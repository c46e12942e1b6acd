"""Rewards and terminations of known tasks, against ten thousand steps of the real environments."""

from functools import cache

import gymnasium
import numpy as np
import pytest
import torch

from layeredrl.envs.tasks import TASKS, Task
from layeredrl.spaces import row_size, to_rows

N_STEPS = 10_000
ALL_TASKS = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())


@cache
def record(env_id: str) -> dict[str, torch.Tensor]:
    """Real transitions of random actions, as the library would see them."""
    env = gymnasium.make(env_id, disable_env_checker=True)
    env.action_space.seed(0)
    steps = []
    state, _ = env.reset(seed=0)
    for _ in range(N_STEPS):
        action = env.action_space.sample()
        next_state, reward, terminated, truncated, _ = env.step(action)
        steps.append((state, action, next_state, reward, terminated))
        state = env.reset()[0] if terminated or truncated else next_state
    env.close()
    states, actions, next_states, rewards, terminated = map(np.stack, zip(*steps, strict=True))
    return {
        "state": to_rows(env.observation_space, states),
        "action": to_rows(env.action_space, actions),
        "next_state": to_rows(env.observation_space, next_states),
        "reward": torch.as_tensor(rewards, dtype=torch.float64),
        "terminated": torch.as_tensor(terminated),
    }


def transition(env_id: str):
    steps = record(env_id)
    return steps["state"], None, steps["action"], steps["next_state"]


def test_pendulum_reward_is_the_real_one():
    """In double precision: float32 alone rounds rewards of −16 by 1e-6."""
    arguments = [x if x is None else x.double() for x in transition("Pendulum-v1")]
    error = TASKS["Pendulum-v1"].reward(*arguments) - record("Pendulum-v1")["reward"]
    assert error.abs().max() < 2e-6


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "CartPole-v1"])
def test_survival_rewards_are_exactly_the_real_ones(env_id):
    assert torch.equal(TASKS[env_id].reward(*transition(env_id)).double(), record(env_id)["reward"])


@ALL_TASKS
def test_terminations_are_exactly_the_real_ones(task: Task):
    ended = task.termination(*transition(task.env_id))
    assert ended.dtype == torch.bool
    assert torch.equal(ended, record(task.env_id)["terminated"])


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "CartPole-v1"])
def test_the_recording_holds_many_endings(env_id):
    assert 100 < record(env_id)["terminated"].sum() < N_STEPS / 2


def test_torques_beyond_the_limit_cost_what_the_limit_costs():
    state = torch.tensor([1.0, 0.0, 0.0])
    reward = TASKS["Pendulum-v1"].reward
    assert reward(state, None, torch.tensor([7.0]), state).item() == pytest.approx(-0.004)
    assert reward(state, None, torch.tensor([-7.0]), state).item() == pytest.approx(-0.004)


@ALL_TASKS
def test_functions_broadcast_over_leading_dims(task: Task):
    """States of particles `(B, E, P, H, S)`, actions of plans `(B, 1, 1, H, A)`: as one by one."""
    state, _, action, next_state = (x if x is None else x[:120] for x in transition(task.env_id))
    states, next_states = (x.reshape(5, 2, 3, 4, -1) for x in (state, next_state))
    actions = action.reshape(5, 2, 3, 4, -1)[:, :1, :1]
    context = torch.zeros(5, 1, 1, 1, 2)
    for function in (task.reward, task.termination):
        got = function(states, context, actions, next_states)
        assert got.shape == (5, 2, 3, 4)
        for b, e, p, h in np.ndindex(5, 2, 3, 4):
            alone = function(states[b, e, p, h], None, actions[b, 0, 0, h], next_states[b, e, p, h])
            assert torch.equal(got[b, e, p, h], alone)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dim", range(4))
def test_a_state_that_is_not_finite_ends_inverted_pendulum(bad, dim):
    task, good = TASKS["InvertedPendulum-v5"], torch.zeros(2, 4)
    next_state = good.clone()
    next_state[0, dim] = bad
    arguments = (good, None, torch.zeros(2, 1), next_state)
    assert task.termination(*arguments).tolist() == [True, False]
    assert task.reward(*arguments).tolist() == [0.0, 1.0]


@ALL_TASKS
def test_states_and_actions_have_the_sizes_of_the_environment(task: Task):
    env = gymnasium.make(task.env_id, disable_env_checker=True)
    state, _, action, _ = transition(task.env_id)
    assert state.shape[1] == row_size(env.observation_space)
    assert action.shape[1] == row_size(env.action_space)
