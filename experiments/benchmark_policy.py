"""How long one policy step takes here and in skrl, with the same network, for 4,096 observations."""

from typing import Any

import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from torch import Tensor, nn

import layeredrl.policies as ours
from experiments.benchmark_contest import OURS, Bench
from experiments.benchmark_peers import SKRL
from experiments.measuring import Call, Row, repeated

N_OBSERVATIONS = 4096
N_FEATURES = 17
OBSERVATION_SPACE = Box(-1.0, 1.0, (N_FEATURES,))
BOX = Box(-1.0, 1.0, (6,))
HIDDEN_SIZE = 64

# Mixin, action space, width of the network's output, settings of the mixin.
Case = tuple[str, Space[Any], int, dict[str, Any]]
CASES: list[Case] = [
    ("DeterministicMixin", BOX, 6, {"clip_actions": True}),
    ("GaussianMixin", BOX, 6, {"clip_actions": True}),
    ("MultivariateGaussianMixin", BOX, 6, {"clip_actions": True}),
    ("CategoricalMixin", Discrete(6), 6, {}),
    ("MultiCategoricalMixin", MultiDiscrete([3, 3]), 6, {}),
]


def measure_policy(bench: Bench) -> list[Row]:
    """One step of each kind of policy, against skrl's."""
    return [_row(bench, case) for case in CASES] if SKRL in bench.peers else []


def _row(bench: Bench, case: Case) -> Row:
    """Both libraries run the same network on the same observations."""
    import skrl.models.torch as theirs

    name, _, n_outputs, _ = case
    net = nn.Sequential(
        nn.Linear(N_FEATURES, HIDDEN_SIZE),
        nn.Tanh(),
        nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE),
        nn.Tanh(),
        nn.Linear(HIDDEN_SIZE, n_outputs),
    ).to(bench.device)
    observations = torch.randn(N_OBSERVATIONS, N_FEATURES, device=bench.device)
    n_steps = bench.sizes.n_policy_steps
    turns = {
        side: repeated(_make_step(library, case, net, observations), n_steps)
        for side, library in ((OURS, ours), (SKRL.name, theirs))
    }
    taken = {side: time.scaled(1 / n_steps) for side, time in bench.timings(turns).items()}
    return Row(f"policy step, {name}", taken[OURS], SKRL.name, taken[SKRL.name])


def _make_step(library: Any, case: Case, net: nn.Module, observations: Tensor) -> Call:
    mixin_name, action_space, n_outputs, settings = case
    mixin: Any = getattr(library, mixin_name)
    base: Any = library.Model
    device = observations.device

    class Policy(mixin, base):  # type: ignore[misc]  # the bases differ by library
        def __init__(self) -> None:
            base.__init__(self, observation_space=OBSERVATION_SPACE, action_space=action_space, device=device)
            mixin.__init__(self, **settings)
            self.net = net
            self.log_std_parameter = nn.Parameter(torch.zeros(n_outputs, device=device))

        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            return self.net(inputs["observations"]), {"log_std": self.log_std_parameter}

    policy = Policy()
    return torch.no_grad()(lambda: policy.act({"observations": observations}, role="policy"))
