"""How long one PETS plan takes here and in mbrl-lib 0.2.0 (Pineda et al. 2021), with the same work."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from experiments.benchmark_planning import Planning
from experiments.measuring import LargeProduct, Row, forward_flops, medians

# Makes one plan.
Plan = Callable[[], object]

MBRL_MISSING = (
    "plan: not compared with mbrl-lib, as {} is missing. To install it: "
    ".venv/bin/pip install -e '.[benchmark]' && .venv/bin/pip install --no-deps mbrl==0.2.0"
)

# Four state coordinates and one action, as a pole on a cart has; draws are truncated, as mbrl-lib's are.
CART_POLE = Planning(
    "InvertedPendulum-v5",
    state_space=Box(-float("inf"), float("inf"), (4,)),
    action_space=Box(-3.0, 3.0, (1,)),
    n_models=5,
    n_particles=4,
    n_candidates=350,
    horizon=15,
    n_iterations=5,
    hidden_sizes=(200, 200, 200, 200),
    sampling="truncated",
)


def measure_plan(repeats: int) -> list[Row]:
    """One plan, against mbrl-lib's and against the same FLOPs as one large matrix product."""
    planning = CART_POLE
    product = LargeProduct()
    mine = our_plan(planning)
    calls: list[Callable[[], object]] = [mine, product]
    try:
        other = mbrl_plan(planning)
    except ModuleNotFoundError as error:
        print(MBRL_MISSING.format(error.name))
    else:
        check_equal_work(planning, mine, other)
        calls.append(other)
    ours, product_seconds, *others = medians(repeats, *calls)
    n_states = planning.state_space.shape[0]
    n_inputs = n_states + planning.action_space.shape[0]
    flops = count_model_steps(planning, mine) * forward_flops(n_inputs, planning.hidden_sizes, 2 * n_states + 2)
    name = f"plan E={planning.n_models} P={planning.n_particles} H={planning.horizon} N={planning.n_candidates}"
    bound = product.seconds_for(flops, product_seconds)
    rows = [Row(name, ours, "the same FLOPs as sgemm", bound)]
    return rows + [Row(name, ours, "mbrl-lib 0.2.0", seconds) for seconds in others]


def our_plan(planning: Planning) -> Plan:
    return partial(planning.agent().act, torch.zeros(1, *planning.state_space.shape))


def mbrl_plan(planning: Planning) -> Plan:
    """The same plan by mbrl-lib, for InvertedPendulum, whose reward and termination it brings.

    Raises:
        ModuleNotFoundError: mbrl-lib, or what it imports, isn't installed.
    """
    from mbrl.env import reward_fns, termination_fns
    from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel
    from mbrl.planning import TrajectoryOptimizerAgent
    from omegaconf import OmegaConf

    (n_states,), (n_actions,) = planning.state_space.shape, planning.action_space.shape
    (width,) = set(planning.hidden_sizes)
    net = GaussianMLP(
        in_size=n_states + n_actions,
        out_size=n_states,
        device="cpu",
        num_layers=len(planning.hidden_sizes),
        ensemble_size=planning.n_models,
        hid_size=width,
        propagation_method="fixed_model",  # TS∞
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    model = OneDTransitionRewardModel(net, target_is_delta=True, normalize=True, learned_rewards=False)
    spaces = SimpleNamespace(observation_space=planning.state_space, action_space=planning.action_space)
    env = ModelEnv(spaces, model, termination_fns.inverted_pendulum, reward_fns.inverted_pendulum)
    optimizer = {
        "_target_": "mbrl.planning.CEMOptimizer",
        "num_iterations": planning.n_iterations,
        "population_size": planning.n_candidates,
        "elite_ratio": 0.1,
        "alpha": 0.1,
        "device": "cpu",
    }
    low, high = planning.action_space.low.tolist(), planning.action_space.high.tolist()
    agent = TrajectoryOptimizerAgent(OmegaConf.create(optimizer), low, high, planning_horizon=planning.horizon)
    n_particles = planning.n_models * planning.n_particles  # mbrl-lib deals them out to the members
    agent.set_trajectory_eval_fn(
        lambda state, actions: env.evaluate_action_sequences(
            actions, initial_state=state, num_particles=n_particles
        )
    )
    state = np.zeros(n_states, dtype=np.float32)
    return partial(agent.act, state)


def check_equal_work(planning: Planning, ours: Plan, theirs: Plan) -> None:
    """Refuse to compare plans for which the networks did unequal work.

    Our search tries one candidate more, the mean of its last iteration.

    Raises:
        RuntimeError: the numbers of imagined steps differ by more.
    """
    extra = planning.n_models * planning.n_particles * planning.horizon
    n_ours, n_theirs = (count_model_steps(planning, plan) for plan in (ours, theirs))
    if abs(n_ours - n_theirs) > extra:
        raise RuntimeError(
            f"unequal work: {n_ours} model steps in our plan, {n_theirs} in the other, expected to differ by no "
            f"more than the {extra} of one candidate"
        )


def count_model_steps(planning: Planning, plan: Plan) -> int:
    """Rows that went through a network for one plan, over all members, candidates, iterations and time steps.

    Counted by the hidden units that were activated, however a library arranges members and layers.
    """
    n_activations = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal n_activations
        if isinstance(module, nn.SiLU):
            n_activations += output.numel()

    with register_module_forward_hook(count):
        plan()
    return n_activations // sum(planning.hidden_sizes)
