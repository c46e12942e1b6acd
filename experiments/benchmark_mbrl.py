"""The same rollouts, training and plans by mbrl-lib 0.2.0 (Pineda et al. 2021). Importing this needs it."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from jaxtyping import Float
from mbrl.env import reward_fns, termination_fns
from mbrl.models import GaussianMLP, ModelEnv, ModelTrainer, OneDTransitionRewardModel
from mbrl.planning import TrajectoryOptimizerAgent
from mbrl.types import TransitionBatch
from mbrl.util.replay_buffer import BootstrapIterator, TransitionIterator
from omegaconf import OmegaConf
from torch import Tensor

from experiments.benchmark_sizes import Dynamics, Planning
from experiments.measuring import Call
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.types import Batch


def mbrl_model(dynamics: Dynamics, device: torch.device) -> OneDTransitionRewardModel:
    """Networks of the same size, of which each moves particles of its own (TS∞)."""
    net = GaussianMLP(
        in_size=dynamics.n_inputs,
        out_size=dynamics.n_states,
        device=device,
        num_layers=dynamics.n_layers,
        ensemble_size=dynamics.n_models,
        hid_size=dynamics.width,
        propagation_method="fixed_model",
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    return OneDTransitionRewardModel(net, target_is_delta=True, normalize=True, learned_rewards=False)


def mbrl_rollout(dynamics: Dynamics, initial_state: Float[Tensor, "B S"], actions: Float[Tensor, "B H A"]) -> Call:
    """As many particles of each start as we have; mbrl-lib deals them out to the members."""
    device = initial_state.device
    model = mbrl_model(dynamics, device)
    generator = torch.Generator(device).manual_seed(0)

    @torch.no_grad()
    def rollout() -> Tensor:
        n_copies = dynamics.n_models * dynamics.n_particles
        model_state = model.reset(initial_state.repeat(n_copies, 1), rng=generator)
        path = []
        for action in actions.repeat(n_copies, 1, 1).unbind(dim=1):
            state, _, _, model_state = model.sample(action, model_state, rng=generator)
            path.append(state)
        return torch.stack(path, dim=1)

    return rollout


def mbrl_train_step(dynamics: Dynamics, batch: Batch) -> Call:
    model = mbrl_model(dynamics, batch.state.device)
    optimizer = torch.optim.Adam(model.parameters())
    return partial(model.update, TransitionBatch(*_fields(batch)), optimizer)


def mbrl_fit(dynamics: Dynamics, buffer: ReplayBuffer, *, batch_size: int, n_epochs: int) -> Call:
    """Fits a fresh model to the same transitions, with the same ones held out, and never stops early."""
    model = mbrl_model(dynamics, buffer.device)
    held_out = buffer.is_holdout
    train, holdout = (
        TransitionBatch(*(field.cpu().numpy() for field in _fields(buffer[rows.nonzero().squeeze(-1)])))
        for rows in (~held_out, held_out)
    )
    model.update_normalizer(train)
    batches = BootstrapIterator(
        train,
        batch_size,
        dynamics.n_models,
        shuffle_each_epoch=True,
        permute_indices=False,
        rng=np.random.default_rng(0),
    )
    return partial(
        ModelTrainer(model).train,
        batches,
        TransitionIterator(holdout, batch_size),
        num_epochs=n_epochs,
        silent=True,
    )


def mbrl_plan(planning: Planning, device: torch.device) -> Call:
    """The same plan, for InvertedPendulum, whose reward and termination mbrl-lib brings."""
    spaces = SimpleNamespace(observation_space=planning.state_space, action_space=planning.action_space)
    env = ModelEnv(
        spaces, mbrl_model(planning, device), termination_fns.inverted_pendulum, reward_fns.inverted_pendulum
    )
    optimizer = {
        "_target_": "mbrl.planning.CEMOptimizer",
        "num_iterations": planning.n_iterations,
        "population_size": planning.n_candidates,
        "elite_ratio": 0.1,
        "alpha": 0.1,
        "device": str(device),
    }
    low, high = planning.action_space.low.tolist(), planning.action_space.high.tolist()
    agent = TrajectoryOptimizerAgent(OmegaConf.create(optimizer), low, high, planning_horizon=planning.horizon)
    n_particles = planning.n_models * planning.n_particles  # mbrl-lib deals them out to the members
    agent.set_trajectory_eval_fn(
        lambda state, actions: env.evaluate_action_sequences(
            actions, initial_state=state, num_particles=n_particles
        )
    )
    return partial(agent.act, np.zeros(planning.n_states, dtype=np.float32))


def _fields(batch: Batch) -> tuple[Tensor, ...]:
    """In the order of a TransitionBatch."""
    nothing = torch.zeros_like(batch.terminated)
    return batch.state, batch.action, batch.next_state, nothing.float(), batch.terminated, nothing
