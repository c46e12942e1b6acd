"""What followed what, in all three autoreset modes, on an environment that counts."""

from dataclasses import fields

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from layeredrl.training.autoreset import VectorEnvironment
from tests.training.counting_env import BOX, DISCRETE, MODES, CountingEnv, EchoAgent, make_env, true_episode

LENGTHS = (3, 1, 5)
Row = tuple[float, float, float, bool, bool]


def record(mode: AutoresetMode, n_steps: int = 30, lengths=LENGTHS, **more) -> list[list[Row]]:
    """Per environment: state, reward, next state and flags of what is said to be a transition."""
    env = VectorEnvironment(make_env(mode, lengths, **more))
    agent = EchoAgent(discrete=more.get("action_space") == DISCRETE)
    state = env.reset()
    rows: list[list[Row]] = [[] for _ in lengths]
    for _ in range(n_steps):
        step = env.step(agent.action(state))
        for i in step.is_transition.nonzero().flatten().tolist():
            numbers = (state[i, 0], step.reward[i], step.next_state[i, 0])
            rows[i].append((*map(float, numbers), bool(step.terminated[i]), bool(step.truncated[i])))
        assert torch.equal(step.next_state[:, 1], -step.next_state[:, 0])
        state = step.start
    return rows


def true_rows(env: int, n: int) -> list[Row]:
    rows, episode = [], 0
    while len(rows) < n:
        counts, ending = true_episode(env, episode, LENGTHS[env])
        last = [False] * (LENGTHS[env] - 1) + [True]
        rows += [
            (count, count % 4, count + 1, is_last and ending[0], is_last and ending[1])
            for count, is_last in zip(counts, last, strict=False)
        ]
        episode += 1
    return rows[:n]


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["Box", "Discrete"])
@pytest.mark.parametrize("mode", MODES)
def test_transitions_are_those_that_happened(mode, action_space, copy):
    for env, rows in enumerate(record(mode, action_space=action_space, copy=copy)):
        assert rows == true_rows(env, len(rows))


@pytest.mark.parametrize("mode", MODES)
def test_every_step_counts_unless_the_environment_says_that_it_only_began_anew(mode):
    n_transitions = [len(rows) for rows in record(mode, n_steps=30)]
    # With NEXT_STEP an episode of length n takes n + 1 steps.
    expected = [23, 15, 25] if mode is AutoresetMode.NEXT_STEP else [30, 30, 30]
    assert n_transitions == expected


@pytest.mark.parametrize("mode", MODES)
def test_no_transition_leads_from_one_episode_to_another(mode):
    for rows in record(mode):
        assert all(row[2] == row[0] + 1 for row in rows)


@pytest.mark.parametrize("mode", MODES)
def test_where_to_act_next_is_where_the_environment_is(mode):
    env = VectorEnvironment(make_env(mode, LENGTHS))
    env.reset()
    for _ in range(20):
        step = env.step(torch.zeros(3, 1))
        goes_on = ~step.is_last
        assert torch.equal(step.start[goes_on], step.next_state[goes_on])
        if mode is not AutoresetMode.NEXT_STEP:
            begun = step.start[step.is_last]
            assert bool((begun[:, 0] % 100 == 0).all())


def test_is_last_marks_transitions_only():
    env = VectorEnvironment(make_env(AutoresetMode.NEXT_STEP, (1, 2)))
    env.reset()
    steps = [env.step(torch.zeros(2, 1)) for _ in range(6)]
    assert [step.is_last.tolist() for step in steps] == [
        [True, False], [False, True], [True, False], [False, False], [True, True], [False, False],
    ]  # fmt: skip
    assert [step.is_transition.tolist() for step in steps] == [
        [True, True], [False, True], [True, False], [False, True], [True, True], [False, False],
    ]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_forgets_that_an_episode_had_ended(mode):
    env = VectorEnvironment(make_env(mode, (2, 2)))
    env.reset()
    for _ in range(2):
        env.step(torch.zeros(2, 1))
    env.reset()
    step = env.step(torch.zeros(2, 1))
    assert step.is_transition.tolist() == [True, True]
    assert step.next_state[:, 0].remainder(100).tolist() == [1, 1]


@pytest.mark.parametrize("mode", MODES)
def test_a_step_is_not_written_to_by_the_next_one(mode):
    env = VectorEnvironment(make_env(mode, (2, 3), copy=False))
    first = env.reset()
    step = env.step(torch.zeros(2, 1))
    tensors = [first] + [getattr(step, field.name) for field in fields(step)]
    before = [tensor.clone() for tensor in tensors]
    for _ in range(4):
        env.step(torch.zeros(2, 1))
    assert all(torch.equal(x, y) for x, y in zip(before, tensors, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_observations_of_any_shape_become_rows(mode):
    class Square(CountingEnv):
        observation_space = Box(-np.inf, np.inf, (2, 2), dtype=np.float64)

        def _observation(self):
            return super()._observation().astype(float) * np.array([[1, 2], [3, 4]])

    env = VectorEnvironment(SyncVectorEnv([lambda: Square(0, 2), lambda: Square(1, 3)], autoreset_mode=mode))
    env.reset()
    env.step(torch.zeros(2, 1))
    step = env.step(torch.zeros(2, 1))
    assert step.is_last.tolist() == [True, False]
    assert step.next_state.tolist() == [[2, -4, 6, -8], [10002, -20004, 30006, -40008]]


def test_seeds_reach_each_environment():
    env = make_env(AutoresetMode.NEXT_STEP, LENGTHS)
    VectorEnvironment(env).reset(seed=40)
    assert env.np_random_seed == (40, 41, 42)


def test_what_is_no_vector_environment_is_refused(unchecked):
    with pytest.raises(TypeError, match=r"env: got CountingEnv, expected a vector environment.*make_vec"):
        VectorEnvironment(CountingEnv(0, 3))


@pytest.mark.parametrize("mode", [None, "NextStep"])
def test_an_environment_that_hides_its_autoreset_mode_is_refused(mode):
    env = make_env(AutoresetMode.NEXT_STEP, LENGTHS)
    env.metadata = {} if mode is None else {"autoreset_mode": mode}
    with pytest.raises(
        ValueError, match=r"env\.metadata\['autoreset_mode'\]: got (None|'NextStep'), expected one of"
    ):
        VectorEnvironment(env)


def test_spaces_that_are_not_supported_are_refused():
    class Strange(CountingEnv):
        observation_space = Dict({"x": Box(0, 1)})

    class Vector(gym.vector.VectorEnv):
        single_observation_space, single_action_space = Strange.observation_space, BOX

    with pytest.raises(TypeError, match=r"env\.single_observation_space: got Dict.*FlattenObservation"):
        VectorEnvironment(Vector())
