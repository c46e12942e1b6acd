"""What chance doesn't reach: the very limits of health, states that aren't finite, and coordinates of no effect."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from layeredrl.envs.tasks import TASKS
from tests.envs.recording import make

NOT_FINITE = (-math.inf, math.inf, math.nan)


def around(*limits: float) -> list[float]:
    """Each limit, and its nearest neighbours on both sides."""
    return [float(x) for limit in limits for x in (np.nextafter(limit, -math.inf), limit, np.nextafter(limit, 9e9))]


def verdicts(env_id: str, index: int, value: float) -> tuple[bool, bool]:
    """Whether a state with one coordinate set by hand ends the episode: says the task, says the environment."""
    task, env = TASKS[env_id], make(TASKS[env_id]).unwrapped
    observation, _ = env.reset(seed=0)
    # Given the true velocity: observations would clip it.
    state = torch.as_tensor(observation)
    state[index] = value
    motion = np.concatenate([env.data.qpos, env.data.qvel])
    motion[index] = value
    env.data.qpos[:], env.data.qvel[:] = np.split(motion, [env.model.nq])
    return task.termination(state, None, torch.zeros(env.model.nu), state).item(), not env.is_healthy


@pytest.mark.parametrize(
    ("env_id", "index", "values"),
    [
        ("Hopper-v5", 1, [*around(0.7), 500.0, *NOT_FINITE]),
        ("Hopper-v5", 2, [*around(-0.2, 0.2), *NOT_FINITE]),
        ("Hopper-v5", 4, [*around(-100.0, 100.0), *NOT_FINITE]),
        ("Hopper-v5", 11, [*around(-100.0, 100.0), *NOT_FINITE]),
        ("Walker2d-v5", 1, [*around(0.8, 2.0), *NOT_FINITE]),
        ("Walker2d-v5", 2, [*around(-1.0, 1.0), *NOT_FINITE]),
        ("Ant-v5", 2, [*around(0.2, 1.0), *NOT_FINITE]),
        ("Ant-v5", 0, [500.0, *NOT_FINITE]),
        ("Ant-v5", 14, [500.0, *NOT_FINITE]),
        ("Ant-v5", 28, [500.0, *NOT_FINITE]),
    ],
)
def test_health_ends_exactly_where_the_environment_says(env_id, index, values):
    pairs = [verdicts(env_id, index, value) for value in values]
    ours, theirs = zip(*pairs, strict=True)
    assert ours == theirs
    assert set(ours) == {True, False}


@pytest.mark.parametrize(("env_id", "index"), [("Hopper-v5", 0), ("Walker2d-v5", 0), ("Walker2d-v5", 4)])
@pytest.mark.parametrize("value", [-500.0, 500.0, *NOT_FINITE])
def test_coordinates_without_limits_never_end_an_episode(env_id, index, value):
    assert verdicts(env_id, index, value) == (False, False)


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("dim", range(4))
def test_a_state_that_is_not_finite_ends_inverted_pendulum(bad, dim):
    task, good = TASKS["InvertedPendulum-v5"], torch.zeros(2, 4)
    next_state = good.clone()
    next_state[0, dim] = bad
    arguments = (good, None, torch.zeros(2, 1), next_state)
    assert task.termination(*arguments).tolist() == [True, False]
    assert task.reward(*arguments).tolist() == [0.0, 1.0]


def step_from(env_id: str, state: list[float], action: np.ndarray | int) -> tuple[torch.Tensor, bool]:
    """Where a classic environment goes from a state set by hand; the task agrees on reward and ending."""
    task, env = TASKS[env_id], make(TASKS[env_id]).unwrapped
    env.reset(seed=0)
    env.state = np.array(state, dtype=np.float32)
    observation, reward, terminated, _, _ = env.step(action)
    transition = torch.tensor(state), None, torch.as_tensor(np.atleast_1d(action)), torch.as_tensor(observation)
    assert task.termination(*transition).item() == terminated
    assert task.reward(*transition).item() == pytest.approx(reward)
    return transition[-1], terminated


def test_a_car_that_rolls_back_past_the_flag_goes_on():
    seen, force = set(), np.array([0.5], dtype=np.float32)
    for position, velocity in product(np.linspace(0.4, 0.6, 11), np.linspace(-0.07, 0.07, 11)):
        (position, velocity), terminated = step_from("MountainCarContinuous-v0", [position, velocity], force)
        seen.add((terminated, position.item() >= 0.45, velocity.item() >= 0))
    assert seen == {(True, True, True), (False, True, False), (False, False, True), (False, False, False)}


@pytest.mark.parametrize("side", [-1, 1])
def test_a_cart_ends_at_either_end_of_its_track(side):
    states = [[side * x, 0.0, 0.0, 0.0] for x in (2.38, 2.399, 2.401, 2.42)]
    assert [step_from("CartPole-v1", state, 1)[1] for state in states] == [False, False, True, True]


@pytest.mark.parametrize("torque", [7.0, -7.0])
def test_torques_beyond_the_limit_cost_what_the_limit_costs(torque):
    state = torch.tensor([1.0, 0.0, 0.0])
    reward = TASKS["Pendulum-v1"].reward(state, None, torch.tensor([torque]), state)
    assert reward.item() == pytest.approx(-0.004)


@pytest.mark.parametrize("env_id", [env_id for env_id, task in TASKS.items() if task.hidden])
def test_nothing_that_happens_depends_on_hidden_coordinates(env_id):
    """The same steps elsewhere: what is hidden has moved along, all else is the same."""
    hidden, env = list(TASKS[env_id].hidden), make(TASKS[env_id])
    inner = env.unwrapped
    action = np.full(env.action_space.shape, 0.3, dtype=np.float32)
    states = []
    for shift in (0.0, 3.0):
        env.reset(seed=1)
        position = inner.data.qpos.copy()
        position[hidden] += shift
        inner.set_state(position, inner.data.qvel.copy())
        states.append(np.stack([env.step(action)[0] for _ in range(20)]))
        states[-1][:, hidden] -= shift
    np.testing.assert_allclose(states[0], states[1], atol=1e-6)
