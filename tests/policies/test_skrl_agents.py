"""skrl's own agents train with our models, and reach the very parameters that they reach with skrl's."""

from collections.abc import Callable
from typing import Any

import gymnasium
import pytest
import skrl.models.torch as theirs
import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG, PPO_RNN
from skrl.agents.torch.sac import SAC, SAC_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.trainers.torch import SequentialTrainer
from torch import Tensor, nn

import layeredrl.policies as ours
from layeredrl.policies.networks import Value, policy_for
from layeredrl.policies.recurrent import GRU, LSTM, Recurrent

QUIET = {"write_interval": 0, "checkpoint_interval": 0}
Models = dict[str, Any]


def make_network(mixin: type, model: type, env: Any, *, n_inputs: int, n_outputs: int, **settings: Any) -> Any:
    """As a user writes it: a policy, or a value of observations (and of actions, if there are inputs for them)."""
    n_observations = env.observation_space.shape[0]

    class Network(mixin, model):
        def __init__(self) -> None:
            model.__init__(
                self, observation_space=env.observation_space, action_space=env.action_space, device="cpu"
            )
            mixin.__init__(self, **settings)
            self.net = nn.Sequential(nn.Linear(n_inputs, 32), nn.Tanh(), nn.Linear(32, n_outputs))
            self.log_std_parameter = nn.Parameter(torch.zeros(n_outputs))

        def compute(self, inputs: dict[str, Any], role: str) -> tuple[Tensor, dict[str, Any]]:
            x = inputs["observations"]
            if n_inputs > n_observations:
                x = torch.cat([x, inputs["taken_actions"]], dim=-1)
            return self.net(x), {"log_std": self.log_std_parameter}

    return Network()


def ppo_models(library: Any, env: Any) -> Models:
    n = env.observation_space.shape[0]
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        policy = make_network(library.CategoricalMixin, library.Model, env, n_inputs=n, n_outputs=2)
    else:
        policy = make_network(library.GaussianMixin, library.Model, env, n_inputs=n, n_outputs=1, clip_actions=True)
    value = make_network(library.DeterministicMixin, library.Model, env, n_inputs=n, n_outputs=1)
    return {"policy": policy, "value": value}


def sac_models(library: Any, env: Any) -> Models:
    policy = make_network(library.GaussianMixin, library.Model, env, n_inputs=3, n_outputs=1, clip_actions=True)
    critics = ("critic_1", "critic_2", "target_critic_1", "target_critic_2")
    makes_critic = {"n_inputs": 4, "n_outputs": 1}
    return {"policy": policy} | {
        name: make_network(library.DeterministicMixin, library.Model, env, **makes_critic) for name in critics
    }


def ppo_agent(models: Models, env: Any, kind: type = PPO) -> Any:
    cfg = PPO_CFG(rollouts=64, learning_epochs=4, mini_batches=2, entropy_loss_scale=0.01, experiment=dict(QUIET))
    return kind(models=models, memory=RandomMemory(memory_size=64, device="cpu"), cfg=cfg, **spaces(env))


def sac_agent(models: Models, env: Any) -> Any:
    cfg = SAC_CFG(batch_size=32, learning_starts=50, grad_norm_clip=1.0, experiment=dict(QUIET))
    return SAC(models=models, memory=RandomMemory(memory_size=1000, device="cpu"), cfg=cfg, **spaces(env))


def spaces(env: Any) -> dict[str, Any]:
    return {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}


def train(name: str, make_models: Callable[[Any], Models], make_agent: Callable[..., Any], n_steps: int) -> Models:
    torch.manual_seed(0)
    bare = gymnasium.make(name)
    bare.reset(seed=0)
    env = wrap_env(bare, verbose=False)
    models = make_models(env)
    agent = make_agent(models, env)
    SequentialTrainer(
        env=env,
        agents=agent,
        cfg={
            "timesteps": n_steps,
            "headless": True,
            "disable_progressbar": True,
            "close_environment_at_exit": False,
        },
    ).train()
    env.close()
    return models


CASES = [
    ("CartPole-v1", ppo_models, ppo_agent, 256),
    ("Pendulum-v1", ppo_models, ppo_agent, 256),
    ("Pendulum-v1", sac_models, sac_agent, 200),
]


@pytest.mark.parametrize(("name", "make_models", "make_agent", "n_steps"), CASES)
def test_training_ends_at_the_same_parameters(
    name: str, make_models: Callable[..., Models], make_agent: Callable[..., Any], n_steps: int
) -> None:
    untrained = make_models(ours, wrap_env(gymnasium.make(name), verbose=False))
    trained, expected = (
        train(name, lambda env, library=library: make_models(library, env), make_agent, n_steps)
        for library in (ours, theirs)
    )
    for role, model in expected.items():
        parameters = dict(trained[role].named_parameters())
        for key, parameter in model.named_parameters():
            assert torch.equal(parameters[key], parameter), f"{role}.{key}"
        assert not torch.equal(parameters["net.0.weight"], untrained[role].net[0].weight)


@pytest.mark.parametrize("trunk", [GRU(hidden_size=8, sequence_length=8), LSTM(hidden_size=8, sequence_length=8)])
def test_recurrent_policies_train_in_skrls_ppo(trunk: Recurrent) -> None:
    def make_models(env: Any) -> Models:
        arguments = env.observation_space, env.action_space, trunk, "cpu"
        return {"policy": policy_for(*arguments), "value": Value(*arguments)}

    models = train("CartPole-v1", make_models, lambda *args: ppo_agent(*args, PPO_RNN), n_steps=128)
    torch.manual_seed(0)
    fresh = make_models(wrap_env(gymnasium.make("CartPole-v1"), verbose=False))
    for role, model in models.items():
        assert not torch.equal(model.trunk.net.weight_ih_l0, fresh[role].trunk.net.weight_ih_l0)
        assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
