"""Actions of a nested space, from the agent through environment and buffer into the model, and nothing mixed up."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from torch import Tensor, nn

from layeredrl.agents.random_agent import RandomAgent
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.training.checkpoint import load_checkpoint, save_checkpoint
from layeredrl.training.collector import Collector, Episode
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig
from tests.training.counting_env import MODES

LENGTH = 6
STATE = Box(-np.inf, np.inf, (8,))
ACTIONS = Dict(
    {
        "throttle": Box(-1.0, 1.0, (2,)),
        "gear": Discrete(4, start=1),
        "panel": Tuple([MultiDiscrete([2, 3], start=[7, -1]), MultiBinary(2)]),
    }
)


class Repeating(gym.Env[Any, Any]):
    """Its observation says which environment it is, and what it was told to do: throttle, gear, valves, lamps."""

    observation_space, action_space = STATE, ACTIONS

    def __init__(self, env: int):
        self.env, self.count = env, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.count = 0
        return np.array([self.env] + [0] * 7, dtype=np.float32), {}

    def step(self, action: Any):
        assert self.action_space.contains(action), action
        self.count += 1
        valves, lamps = action["panel"]
        told = [self.env, *action["throttle"], action["gear"], *valves, *lamps]
        return np.array(told, dtype=np.float32), 0.0, self.count == LENGTH, False, {}


def told(actions: Tensor) -> Tensor:
    """What an environment says of actions in rows: gear | valves | lamps | throttle."""
    return actions[..., [5, 6, 0, 1, 2, 3, 4]]


def collect(env: gym.vector.VectorEnv, n_steps: int) -> tuple[ReplayBuffer, list[Episode]]:
    buffer = ReplayBuffer(STATE, None, ACTIONS, 1_000)
    agent = RandomAgent(ACTIONS, generator=torch.Generator().manual_seed(0))
    return buffer, Collector(env, buffer, seed=0).collect(agent, n_steps)


class Knowing(nn.Module):
    """A member that foretells exactly what `Repeating` says, from the features of the action."""

    def __init__(self):
        super().__init__()
        # Features: gear (4) | first valve (2) | second valve (3) | lamps (2) | throttle (2).
        weight = torch.zeros(13, 7)
        weight[11:13, 0:2] = torch.eye(2)
        weight[0:4, 2] = torch.tensor([1.0, 2.0, 3.0, 4.0])
        weight[4:6, 3] = torch.tensor([7.0, 8.0])
        weight[6:9, 4] = torch.tensor([-1.0, 0.0, 1.0])
        weight[9:11, 5:7] = torch.eye(2)
        self.register_buffer("weight", weight)

    def forward(self, state: Tensor, context: None, action: Tensor):
        mean = torch.cat([state[..., :1], action @ self.weight], dim=-1).unsqueeze(-2)
        return (mean, torch.full_like(mean, 1e-6)), torch.ones_like(mean[..., 0]), torch.zeros_like(mean[..., 0, 0])


def knowing_ensemble() -> ProbabilisticEnsemble:
    exact = {"predict_delta": False, "normalize_targets": False, "normalize_inputs": False}
    return ProbabilisticEnsemble(STATE, None, ACTIONS, lambda *_: Knowing(), n_models=2, **exact)


@pytest.mark.parametrize("mode", MODES)
def test_the_buffer_holds_the_actions_that_the_environments_were_given(mode):
    env = SyncVectorEnv([lambda e=e: Repeating(e) for e in range(3)], autoreset_mode=mode)
    buffer, episodes = collect(env, 60)
    stored = buffer[:]
    assert len(stored) >= 60
    assert torch.equal(told(stored.action), stored.next_state[:, 1:])
    assert torch.equal(stored.state[:, 0], stored.next_state[:, 0])
    assert len(stored.action.unique(dim=0)) == len(stored)
    assert len(episodes) >= 6
    for episode in episodes:
        assert torch.equal(told(episode.action), episode.state[1:, 1:])


def test_environments_in_other_processes_are_given_the_same_actions():
    env = AsyncVectorEnv([lambda e=e: Repeating(e) for e in range(2)])
    stored = collect(env, 10)[0][:]
    env.close()
    assert torch.equal(told(stored.action), stored.next_state[:, 1:])


def test_a_model_that_knows_the_environment_foretells_every_step():
    """So the features that members read are those of the actions that were executed."""
    buffer, episodes = collect(SyncVectorEnv([lambda e=e: Repeating(e) for e in range(3)]), 60)
    model, stored = knowing_ensemble(), buffer[:]
    prediction = model.predict(stored.state, None, stored.action)
    torch.testing.assert_close(prediction.mean, stored.next_state[:, None, None].expand(-1, 2, 1, -1))
    state = torch.stack([episode.state for episode in episodes])
    action = torch.stack([episode.action for episode in episodes])
    rollout = model.rollout(state[:, 0], None, action, deterministic=True)
    torch.testing.assert_close(rollout.state, state[:, None, None].expand(-1, 2, 1, -1, -1))


def test_a_model_refuses_an_action_between_two_gears():
    action = torch.tensor([[2.5, 7, 0, 1, 0, 0.3, -0.3]])
    with pytest.raises(ValueError, match=r"action: got 2\.5 at index \(0, 0\), expected values inside Discrete"):
        knowing_ensemble().predict(torch.zeros(1, 8), None, action)


def test_an_ensemble_learns_from_nested_actions_and_survives_a_checkpoint(tmp_path):
    buffer, _ = collect(SyncVectorEnv([lambda e=e: Repeating(e) for e in range(3)]), 300)

    def make() -> ProbabilisticEnsemble:
        return ProbabilisticEnsemble(STATE, None, ACTIONS, ProbFCDynamics, n_models=2, predict_delta=False)

    model, other, other_buffer = make(), make(), ReplayBuffer(STATE, None, ACTIONS, 1_000)
    stored = buffer[:]
    model.set_statistics(stored)
    before = model.get_log_prob(stored.state, None, stored.action, stored.next_state)[0].mean()
    EnsembleTrainer(model, TrainerConfig(max_epochs=20)).fit(buffer)
    after = model.get_log_prob(stored.state, None, stored.action, stored.next_state)[0].mean()
    assert after > before + 5  # nats, in eight dimensions
    save_checkpoint(tmp_path / "checkpoint.pt", model, buffer)
    load_checkpoint(tmp_path / "checkpoint.pt", other, other_buffer)
    assert torch.equal(other_buffer[:].action, stored.action)
    query = stored.state, None, stored.action
    assert torch.equal(other.predict(*query).mean, model.predict(*query).mean)
