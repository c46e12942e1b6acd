"""How long one policy step takes here and in skrl, with the same network, for 4,096 observations."""

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import skrl.models.torch as theirs
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from torch import Tensor, nn

import layeredrl.policies as ours

N_OBSERVATIONS = 4096
N_FEATURES = 17
OBSERVATION_SPACE = Box(-1.0, 1.0, (N_FEATURES,))
BOX = Box(-1.0, 1.0, (6,))
HIDDEN_SIZE = 64
N_WARMUP = 20

# Mixin, action space, width of the network's output, settings of the mixin.
Case = tuple[str, Space[Any], int, dict[str, Any]]
CASES: list[Case] = [
    ("DeterministicMixin", BOX, 6, {"clip_actions": True}),
    ("GaussianMixin", BOX, 6, {"clip_actions": True}),
    ("MultivariateGaussianMixin", BOX, 6, {"clip_actions": True}),
    ("CategoricalMixin", Discrete(6), 6, {}),
    ("MultiCategoricalMixin", MultiDiscrete([3, 3]), 6, {}),
]


class PolicyRow(NamedTuple):
    """Median seconds of one step, and the median of the ratios ours / skrl's of steps taken one after the other."""

    mixin: str
    ours: float
    skrl: float
    ratio: float


def policy_rows(n_repetitions: int = 300) -> list[PolicyRow]:
    """One row per mixin.

    Both libraries run the same network on the same observations, in turns, and take turns in being first: what else
    the machine does meets both alike.
    """
    return [_row(case, n_repetitions) for case in CASES]


def _row(case: Case, n_repetitions: int) -> PolicyRow:
    _, _, n_outputs, _ = case
    net = nn.Sequential(
        nn.Linear(N_FEATURES, HIDDEN_SIZE),
        nn.Tanh(),
        nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE),
        nn.Tanh(),
        nn.Linear(HIDDEN_SIZE, n_outputs),
    )
    observations = torch.randn(N_OBSERVATIONS, N_FEATURES)
    our_step, their_step = (_make_step(library, case, net, observations) for library in (ours, theirs))
    seconds = []
    for repetition in range(N_WARMUP + n_repetitions):
        if repetition % 2:
            mine, other = _time(our_step), _time(their_step)
        else:
            other, mine = _time(their_step), _time(our_step)
        seconds.append((mine, other))
    our_seconds, their_seconds = zip(*seconds[N_WARMUP:], strict=True)
    ratio = median(mine / other for mine, other in seconds[N_WARMUP:])
    return PolicyRow(case[0], median(our_seconds), median(their_seconds), ratio)


def _make_step(library: Any, case: Case, net: nn.Module, observations: Tensor) -> Callable[[], object]:
    mixin_name, action_space, n_outputs, settings = case
    mixin: Any = getattr(library, mixin_name)
    base: Any = library.Model

    class Policy(mixin, base):  # type: ignore[misc]  # the bases differ by library
        def __init__(self) -> None:
            base.__init__(self, observation_space=OBSERVATION_SPACE, action_space=action_space, device="cpu")
            mixin.__init__(self, **settings)
            self.net = net
            self.log_std_parameter = nn.Parameter(torch.zeros(n_outputs))

        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            return self.net(inputs["observations"]), {"log_std": self.log_std_parameter}

    policy = Policy()
    return torch.no_grad()(lambda: policy.act({"observations": observations}, role="policy"))


def _time(step: Callable[[], object]) -> float:
    start = perf_counter()
    step()
    return perf_counter() - start
