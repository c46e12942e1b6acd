"""Rewards are learned beside the dynamics, from the same buffer and by the same trainer."""

from dataclasses import replace

import gymnasium as gym
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from layeredrl.agents.random_agent import RandomAgent
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.envs.tasks import pendulum_reward
from layeredrl.models.reward_model import RewardModel
from layeredrl.planners.objective import ModelObjective
from layeredrl.training.collector import Collector
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig, TrainReport
from layeredrl.types import Batch
from tests.training.linear_system import make_batch, make_buffer, make_model, make_reward_model

QUICK = TrainerConfig(learning_rate=3e-3, max_epochs=15)
UNBOUNDED, FORCES = Box(-torch.inf, torch.inf, (4,)), Box(-1.0, 1.0, (2,))


def fit(model: RewardModel, buffer: ReplayBuffer, config: TrainerConfig = QUICK) -> TrainReport:
    return EnsembleTrainer(model, config, generator=torch.Generator().manual_seed(0)).fit(buffer)


def learn(batch: Batch, action_space=FORCES, context_space=None, **settings) -> RewardModel:
    """A model fitted to the transitions."""
    model = RewardModel(UNBOUNDED, context_space, action_space, n_models=3, **settings)
    buffer = ReplayBuffer(UNBOUNDED, context_space, action_space, len(batch))
    buffer.add(batch)
    fit(model, buffer)
    return model


@torch.no_grad()
def explained(model: RewardModel, batch: Batch) -> float:
    """R²: the share of the rewards' variance that the model explains."""
    error = model(batch.state, batch.context, batch.action, batch.next_state) - batch.reward
    return float(1 - error.square().mean() / batch.reward.var(correction=0))


def draw_walk(n: int, reward, *, spread: float = 1.0, step: float = 0.1) -> Batch:
    """Places, random forces, small steps; the reward is a function of the three and of where the step led."""
    state, action = spread * torch.randn(n, 4), 2 * torch.rand(n, 2) - 1
    next_state = state + step * torch.randn(n, 4)
    ended = torch.zeros(n, dtype=torch.bool)
    return Batch(state, None, action, next_state, ended, reward=reward(state, action, next_state))


def reach(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """Near the target and lazy, as Reacher's."""
    return -state[:, :2].norm(dim=1) - action.square().sum(dim=1)


def progress(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """Fast and lazy, as HalfCheetah's."""
    return (next_state[:, 0] - state[:, 0]) / 0.05 - 0.1 * action.square().sum(dim=1)


def test_the_reward_of_the_real_pendulum_is_learned():
    env = gym.make_vec("Pendulum-v1", 8)
    spaces = env.single_observation_space, None, env.single_action_space
    buffer = ReplayBuffer(*spaces, 3000)
    Collector(env, buffer, seed=0).collect(RandomAgent(spaces[2], generator=torch.Generator().manual_seed(0)), 3000)
    model = RewardModel(*spaces, n_models=3)
    report = fit(model, buffer)
    unseen = buffer[:][buffer.is_holdout]
    assert explained(model, unseen) > 0.99
    exact = pendulum_reward(unseen.state, None, unseen.action, unseen.next_state)
    assert explained(model, replace(unseen, reward=exact)) > 0.99
    assert bool((report.holdout.mse < 0.03 * exact.var()).all())


def test_a_reward_of_distance_and_effort_is_learned():
    assert explained(learn(draw_walk(3000, reach)), draw_walk(1000, reach)) > 0.99


def test_a_reward_of_small_differences_between_large_positions_is_learned():
    near, far = {"spread": 3.0, "step": 0.05}, {"spread": 300.0, "step": 0.05}
    model = learn(draw_walk(1500, progress, **near), hidden_states=(0, 1, 2, 3))
    assert explained(model, draw_walk(1000, progress, **near)) > 0.99
    assert explained(model, draw_walk(1000, progress, **far)) > 0.99


def test_a_reward_of_discrete_actions_and_of_contexts_is_learned():
    action_space, context_space = Discrete(3, start=1), Box(-1.0, 1.0, (4,))

    def draw(n: int) -> Batch:
        batch, context = draw_walk(n, reach), 2 * torch.rand(n, 4) - 1
        action = torch.randint(1, 4, (n, 1))
        reward = -(batch.next_state - context).square().sum(dim=1) - (action[:, 0] == 2).float()
        return replace(batch, context=context, action=action, reward=reward)

    assert explained(learn(draw(3000), action_space, context_space), draw(1000)) > 0.99


def test_a_reward_that_never_varies_is_learned():
    constant = draw_walk(300, lambda s, a, n: torch.full((len(s),), 7.0))
    model = learn(constant)
    with torch.no_grad():
        expected = model(constant.state, None, constant.action, constant.next_state)
    torch.testing.assert_close(expected, constant.reward, atol=0.1, rtol=0.0)


def test_statistics_are_those_of_the_training_rows():
    model, buffer = make_reward_model(), make_buffer()
    fit(model, buffer, replace(QUICK, max_epochs=1))
    train = buffer[:][~buffer.is_holdout]
    inputs = torch.cat([train.state, train.action, train.next_state - train.state], dim=1)
    for moments, x in ((model.inputs, inputs), (model.rewards, train.reward[:, None])):
        torch.testing.assert_close(moments.mean, x.mean(dim=0))
        torch.testing.assert_close(moments.var, x.var(dim=0, correction=0))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rewards_that_are_not_finite_are_refused_before_anything_changes(monkeypatch, bad):
    model, buffer = make_reward_model(), make_buffer()
    batch = buffer[:]
    batch.reward[17] = bad
    monkeypatch.setattr(ReplayBuffer, "__getitem__", lambda self, index: batch)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"Batch\.reward: row 17 is {bad}, expected finite values"):
        fit(model, buffer)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_learned_rewards_serve_an_objective():
    """Next to learned dynamics, in the place of a known function."""
    dynamics, rewards, buffer = make_model(2), make_reward_model(3), make_buffer()
    for model in (dynamics, rewards):
        EnsembleTrainer(model, replace(QUICK, max_epochs=1)).fit(buffer)
    plans, state = 2 * torch.rand(2, 4, 5, 1) - 1, make_batch(2).state
    generators = (torch.Generator().manual_seed(0) for _ in range(2))
    values = ModelObjective(dynamics, rewards)(state, generator=next(generators))(plans)
    # The same by a function that is no model: the first axis runs over the members of the dynamics.
    loop = ModelObjective(dynamics, lambda *rows: rewards.paired(torch.arange(2))(*rows))
    torch.testing.assert_close(values, loop(state, generator=next(generators))(plans))
    averaged = ModelObjective(dynamics, rewards.forward)(state, generator=torch.Generator().manual_seed(0))(plans)
    assert not torch.allclose(values, averaged)
