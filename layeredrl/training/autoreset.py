"""Vector environments without their traps: what followed what, whatever the autoreset mode.

After an episode has ended, gymnasium's vector environments start the next one in one of three ways:

* `NEXT_STEP`: the next step ignores its action and returns the first state of the new episode. Recorded as it
  comes, that is a transition from a terminal state to a start;
* `SAME_STEP`: the step that ends the episode returns the first state of the new one already. The state that was
  reached is in `info["final_obs"]`;
* `DISABLED`: nothing happens until `reset` is called for the environments that ended.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from jaxtyping import Bool, Float, Num
from numpy.typing import NDArray
from torch import Tensor

from layeredrl.space_values import from_rows, to_rows
from layeredrl.spaces import check_space


@dataclass(frozen=True)
class VectorStep:
    """What one step did in each environment.

    Attributes:
        next_state: where the action led, also where the episode ended.
        start: where to act next: `next_state`, or the first state of a new episode.
        reward, terminated, truncated: of the transition.
        is_transition: False where the environment only began a new episode and ignored the action.
        is_start: whether `start` begins an episode.
    """

    next_state: Float[Tensor, "V S"]
    start: Float[Tensor, "V S"]
    reward: Float[Tensor, " V"]
    terminated: Bool[Tensor, " V"]
    truncated: Bool[Tensor, " V"]
    is_transition: Bool[Tensor, " V"]
    is_start: Bool[Tensor, " V"]

    @property
    def is_last(self) -> Bool[Tensor, " V"]:
        """Whether the transition ended its episode, for either reason."""
        return (self.terminated | self.truncated) & self.is_transition


class VectorEnvironment:
    """A gymnasium vector environment in tensors.

    Args:
        env: in any autoreset mode.
        device: where the tensors lie.

    Raises:
        TypeError: `env` is no vector environment, or of unsupported spaces.
        ValueError: it doesn't say what its autoreset mode is.
    """

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any], device: torch.device | str = torch.device("cpu")):
        if not isinstance(env, gym.vector.VectorEnv):
            raise TypeError(
                f"env: got {type(env).__name__}, expected a vector environment: gymnasium.make_vec makes one"
            )
        if not isinstance(env.single_observation_space, Box | Discrete):
            raise TypeError(
                f"env.single_observation_space: got {env.single_observation_space!r}, expected a gymnasium Box or "
                "Discrete: wrap each environment in gymnasium.wrappers.FlattenObservation"
            )
        check_space("env.single_action_space", env.single_action_space)
        mode = env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ValueError(f"env.metadata['autoreset_mode']: got {mode!r}, expected one of {list(AutoresetMode)}")
        self.env, self.mode = env, mode
        self.n_envs: int = env.num_envs
        self.state_space, self.action_space = env.single_observation_space, env.single_action_space
        self.device = torch.device(device)
        self._begins = np.zeros(self.n_envs, dtype=bool)

    def reset(self, seed: int | None = None) -> Float[Tensor, "V S"]:
        """Begin an episode everywhere; environment `i` is seeded with `seed + i`."""
        self._begins[:] = False
        observations, _ = self.env.reset(seed=seed)
        return self._rows(observations)

    def step(self, actions: Num[Tensor, "V A"]) -> VectorStep:
        observations, rewards, terminated, truncated, info = self.env.step(from_rows(self.action_space, actions))
        is_transition = ~self._begins
        ended = terminated | truncated
        reached, start = observations, observations
        if self.mode is AutoresetMode.NEXT_STEP:
            self._begins = ended
        elif self.mode is AutoresetMode.SAME_STEP and ended.any():
            reached = np.array(observations)
            reached[ended] = np.stack(list(info["final_obs"][ended]))
        elif self.mode is AutoresetMode.DISABLED and ended.any():
            reached = np.array(observations)
            start, _ = self.env.reset(options={"reset_mask": ended})
        return VectorStep(
            next_state=self._rows(reached),
            start=self._rows(start),
            reward=torch.as_tensor(rewards, dtype=torch.float32, device=self.device),
            terminated=self._flags(terminated),
            truncated=self._flags(truncated),
            is_transition=self._flags(is_transition),
            is_start=self._flags(~is_transition if self.mode is AutoresetMode.NEXT_STEP else ended),
        )

    def _rows(self, observations: NDArray[Any]) -> Float[Tensor, "V S"]:
        return to_rows(self.state_space, observations, self.device)

    def _flags(self, flags: NDArray[np.bool_]) -> Bool[Tensor, " V"]:
        return torch.as_tensor(flags, device=self.device).clone()
