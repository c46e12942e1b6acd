"""Learns what states are worth."""

import copy
import time
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import trange

from layeredrl.planners.terminal_value import TerminalValue
from layeredrl.policies.scaled_value import ScaledValue
from layeredrl.types import Batch


@dataclass(frozen=True)
class ValueTrainerConfig:
    """How a value function is fitted."""

    discount: float = 0.99
    """Per step."""
    n_steps: int = 3000
    """Gradient steps per fit."""
    batch_size: int = 256
    """Transitions per step."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    target_rate: float = 0.02
    """Share by which the target network follows per step."""

    def __post_init__(self) -> None:
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount: got {self.discount}, expected a number in [0, 1)")
        if not 0 < self.target_rate <= 1:
            raise ValueError(f"target_rate: got {self.target_rate}, expected a number in (0, 1]")
        for name in ("n_steps", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive number")


@dataclass(frozen=True)
class ValueReport:
    """What a fit has done.

    Attributes:
        td_error: root mean square of the temporal differences at the end, in units of return.
        seconds: wall clock.
    """

    td_error: float
    seconds: float


class ValueTrainer:
    """Evaluates the behaviour behind some transitions, by temporal differences (Sutton & Barto 2018, section 9.3).

    Where an episode was cut by a time limit, it would have gone on: only terminated ones have nothing more to come.
    Leave out transitions of a behaviour that isn't worth following, such as random actions: what a planner needs of
    a terminal value is less its height than its slope, which leads back to where the past went well.

    Args:
        model: what to train. Its scales are set from the data of each fit.
        config: how.
        progress: whether to show a progress bar.
        generator: draws the batches, on the model's device.
    """

    def __init__(
        self,
        model: ScaledValue,
        config: ValueTrainerConfig = ValueTrainerConfig(),
        *,
        progress: bool = False,
        generator: torch.Generator | None = None,
    ):
        self.model, self.config, self.progress, self.generator = model, config, progress, generator
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)

    def fit(self, data: Batch) -> ValueReport:
        """Go on learning, from these transitions.

        Raises:
            ValueError: there are none, or they have no rewards, or hold a NaN or an infinity. Nothing has changed
                then.
        """
        start = time.perf_counter()
        if len(data) == 0:
            raise ValueError("data: got no transitions, expected some to learn from")
        data = data.to(self.model.device)
        data.check_finite()
        rewards = data.known_reward()
        # The largest and smallest return that an endless sequence of these rewards, or an end, can give.
        extremes = [0.0, *(float(x) / (1 - self.config.discount) for x in rewards.aminmax())]
        self.model.set_scales(data.state, min(extremes), max(extremes) + torch.finfo(rewards.dtype).eps)
        target = copy.deepcopy(self.model)
        self.model.train()
        try:
            for _ in trange(self.config.n_steps, desc="fit values", leave=False, disable=not self.progress):
                shape = (self.config.batch_size,)
                index = torch.randint(len(data), shape, generator=self.generator, device=data.state.device)
                self._step(data[index], target)
        finally:
            self.model.eval()
        with torch.no_grad():
            difference = self._differences(data, self.model)
        return ValueReport(float(difference.square().mean().sqrt()), time.perf_counter() - start)

    def _step(self, batch: Batch, target: ScaledValue) -> None:
        loss = self._differences(batch, target).div(self.model.high - self.model.low).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for own, learned in zip(target.parameters(), self.model.parameters(), strict=True):
                own.lerp_(learned, self.config.target_rate)

    def _differences(self, batch: Batch, target: ScaledValue) -> Float[Tensor, " B"]:
        """Value less reward and discounted value of the next state."""
        with torch.no_grad():
            later = TerminalValue(target)(batch.next_state, batch.context)
            expected = batch.known_reward() + self.config.discount * (~batch.terminated.bool()) * later
        return TerminalValue(self.model)(batch.state, batch.context) - expected
