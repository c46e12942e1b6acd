"""Policies as agents: in a vector environment, with and without memory."""

import gymnasium as gym
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from layeredrl.agents.policy_agent import PolicyAgent
from layeredrl.policies import GRU, LSTM, MLP, GaussianPolicy, policy_for
from layeredrl.policies.model import Model
from layeredrl.space_values import from_rows
from layeredrl.training.collector import Collector

OBSERVATION = Box(-5, 5, (3,))
ACTION = Box(-2, 2, (2,))


TRUNK = MLP((8,))


def make_policy(action_space=ACTION, trunk=TRUNK):
    policy = policy_for(OBSERVATION, action_space, trunk, device="cpu")
    policy.eval()
    return policy


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_a_policy_acts_in_a_vector_environment(env_id):
    mode = {"autoreset_mode": AutoresetMode.SAME_STEP}
    env = gym.make_vec(env_id, 3, vectorization_mode="sync", vector_kwargs=mode)
    space = env.single_action_space
    episodes = Collector(env, seed=0).collect(
        PolicyAgent(policy_for(env.single_observation_space, space, device="cpu")), 600
    )
    assert len(episodes) >= 3
    assert all(space.contains(action) for action in from_rows(space, episodes[0].action))
    assert episodes[0].info["log_prob"].shape == (len(episodes[0]),)


def test_actions_never_leave_the_box():
    policy = GaussianPolicy(OBSERVATION, ACTION, MLP((8,)), "cpu", initial_log_std=2)
    action, _ = PolicyAgent(policy).act(torch.zeros(500, 3))
    assert action.abs().max() <= 2
    assert (action.abs() == 2).any()


def test_of_nested_actions_the_boxes_alone_are_clipped():
    """A discrete number outside its range is an error of the policy, which clipping would hide."""

    class Wild(Model):
        def compute(self, inputs, role=""):
            return torch.tensor([[9.0, 5.0, -9.0]]).expand(len(inputs["observations"]), -1), {}

        def act(self, inputs, *, role=""):
            return self.compute(inputs, role)

    policy = Wild(OBSERVATION, Tuple([Box(-2, 2), Discrete(3), Box(-1, 1)]), "cpu")
    assert PolicyAgent(policy).act(torch.zeros(2, 3))[0].tolist() == [[2, 5, -1]] * 2


@pytest.mark.parametrize(
    "space",
    [Discrete(3, start=2), MultiDiscrete([2, 3], start=[-1, 4]), Dict({"b": ACTION, "a": Box(0, 1, (2, 2))})],
)
def test_policies_act_in_every_space_that_they_know(space):
    make = policy_for if not isinstance(space, Dict) else GaussianPolicy
    action, _ = PolicyAgent(make(OBSERVATION, space, TRUNK, device="cpu")).act(torch.randn(50, 3))
    assert batch_space(space, 50).contains(from_rows(space, action))


def test_deterministic_agents_act_by_the_mode():
    policy = make_policy()
    first, second = (PolicyAgent(policy, deterministic=True).act(torch.ones(4, 3))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_the_generator_decides_the_noise():
    policy = make_policy()
    first, second = (
        PolicyAgent(policy, generator=torch.Generator().manual_seed(2)).act(torch.ones(4, 3))[0] for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("trunk", [GRU(hidden_size=6), LSTM(hidden_size=6)], ids=["gru", "lstm"])
def test_memory_is_carried_along_and_forgotten_where_an_episode_ended(trunk):
    agent = PolicyAgent(make_policy(trunk=trunk), deterministic=True)
    fresh = PolicyAgent(agent.policy, deterministic=True)
    states = torch.randn(2, 4, 3)
    first, _ = agent.act(states[0])
    agent.reset(torch.tensor([True, False, True, False]))
    second, _ = agent.act(states[1])
    without_memory, _ = fresh.act(states[1])
    torch.testing.assert_close(second[[0, 2]], without_memory[[0, 2]])
    assert (second[[1, 3]] - without_memory[[1, 3]]).abs().min() > 1e-5
    agent.reset()
    torch.testing.assert_close(agent.act(states[0])[0], first)


def test_contexts_reach_the_policy():
    seen = {}

    class Curious(GaussianPolicy):
        def compute(self, inputs, role=""):
            seen.update(inputs)
            return super().compute(inputs, role)

    context = torch.ones(2, 1)
    PolicyAgent(Curious(OBSERVATION, ACTION, MLP((8,)), "cpu")).act(torch.zeros(2, 3), context)
    assert seen["context"] is context


def test_what_is_no_policy_is_refused(unchecked):
    with pytest.raises(TypeError, match=r"policy: got Linear, expected a layeredrl\.policies Model"):
        PolicyAgent(torch.nn.Linear(3, 2))
    policy = make_policy(Discrete(3))
    policy.action_space = Text(3)
    with pytest.raises(TypeError, match=r"policy\.action_space: got Text"):
        PolicyAgent(policy)
