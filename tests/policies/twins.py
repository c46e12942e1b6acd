"""The same model written for skrl and for us: one body, two pairs of base classes."""

from typing import Any

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

N_OBSERVATIONS = 4


def make_twin(
    mixin: type,
    model: type,
    observation_space: Space[Any],
    action_space: Space[Any],
    *,
    n_outputs: int,
    log_std: Tensor | None = None,
    output: nn.Module | None = None,
    **settings: Any,
) -> nn.Module:
    """A small network on top of a mixin and a base; the same weights for the same arguments."""

    class Twin(mixin, model):
        def __init__(self) -> None:
            model.__init__(
                self,
                observation_space=observation_space,
                state_space=None,
                action_space=action_space,
                device="cpu",
            )
            mixin.__init__(self, **settings)
            with torch.random.fork_rng():
                torch.manual_seed(1)
                self.net = nn.Sequential(
                    nn.Linear(self.num_observations, 32),
                    nn.Tanh(),
                    nn.Linear(32, n_outputs),
                    output or nn.Identity(),
                )
            if log_std is not None:
                self.log_std_parameter = nn.Parameter(log_std.clone())

        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            more = {} if log_std is None else {"log_std": self.log_std_parameter}
            return self.net(inputs["observations"]), more

    return Twin()
