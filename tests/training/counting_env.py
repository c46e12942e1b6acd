"""An environment that counts: each observation says where and when it was made.

The observation is `10,000 · env + 100 · episode + step`, and the negative of it. The reward is the action. The
n-th episode of every environment ends as `ENDINGS[n % 3]` says.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from layeredrl.agents.agent import Agent

MODES = list(AutoresetMode)
BOX, DISCRETE = Box(-10.0, 10.0, (1,)), Discrete(10, start=-5)
ENV, EPISODE = 10_000, 100
# terminated, truncated
ENDINGS = ((True, False), (False, True), (True, True))


class CountingEnv(gym.Env[NDArray[np.float32], Any]):
    """Args: `length` of the episodes; `nan_at`: the observation that comes out as NaN."""

    observation_space = Box(-np.inf, np.inf, (2,))

    def __init__(self, env: int, length: int, action_space: gym.Space[Any] = BOX, nan_at: int | None = None):
        self.env, self.length, self.nan_at = env, length, nan_at
        self.action_space = action_space
        self.episode, self.count = -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: Any):
        assert self.count < self.length, "stepped on after the end"
        assert self.action_space.contains(action), action
        self.count += 1
        ended = self.count == self.length
        terminated, truncated = (ended and flag for flag in ENDINGS[self.episode % 3])
        return self._observation(), float(np.sum(action)), terminated, truncated, {}

    def _observation(self) -> NDArray[np.float32]:
        count = ENV * self.env + EPISODE * self.episode + self.count
        return np.array([np.nan if count == self.nan_at else count, -count], dtype=np.float32)


def make_env(mode: AutoresetMode, lengths: Sequence[int] = (3, 1, 5), **more: Any) -> SyncVectorEnv:
    """One environment per length. By default they end at different times, one of them at every step."""
    copy = more.pop("copy", True)

    def maker(env: int) -> Callable[[], CountingEnv]:
        return lambda: CountingEnv(env, lengths[env], **more)

    return SyncVectorEnv([maker(env) for env in range(len(lengths))], autoreset_mode=mode, copy=copy)


def true_episode(env: int, episode: int, length: int) -> tuple[list[int], tuple[bool, bool]]:
    """All observations of an episode, and how it ends."""
    start = ENV * env + EPISODE * episode
    return list(range(start, start + length + 1)), ENDINGS[episode % 3]


class EchoAgent(Agent):
    """Acts as a function of the state alone, and keeps a record.

    Attributes:
        acted: states in which it was asked.
        resets: masks that it got.
    """

    def __init__(self, name: str = "value", sign: int = 1, discrete: bool = False):
        self.name, self.sign, self.discrete = name, sign, discrete
        self.acted: list[Tensor] = []
        self.resets: list[list[bool] | None] = []
        self.n_acts = torch.zeros(0)

    def act(self, state: Tensor, context: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        self.acted.append(state)
        if len(self.n_acts) != len(state):
            self.n_acts = torch.zeros(len(state))
        age, self.n_acts = self.n_acts, self.n_acts + 1
        return self.action(state), {self.name: state[:, 0] / 2, "age": age}

    def action(self, state: Tensor) -> Tensor:
        action = self.sign * (state[:, :1] % 4).nan_to_num()
        return action.long() if self.discrete else action

    def reset(self, mask: Tensor | None = None) -> None:
        self.resets.append(None if mask is None else mask.tolist())
        self.n_acts = torch.zeros(0) if mask is None else torch.where(mask, 0.0, self.n_acts)
