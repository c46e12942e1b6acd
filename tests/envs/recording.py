"""Ten thousand real steps of a known task, of many kinds of behaviour."""

from dataclasses import dataclass
from functools import cache
from itertools import count, cycle, product

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from layeredrl.envs.tasks import TASKS, Task
from layeredrl.spaces import row_size

N_STEPS, MAX_LENGTH = 10_000, 200
# Steps that an action is kept for, and how far it goes, as a share of the limits: from nothing to beyond them.
BEHAVIOURS = tuple(product((1, 10, 30), (0.0, 0.3, 1.0, 1.5)))
# Where chance never reaches the goal: every second episode pushes along a velocity, which adds energy.
PUSHED_VELOCITY = {"MountainCarContinuous-v0": 1, "Acrobot-v1": 5}


@dataclass(frozen=True)
class Recording:
    """Transitions as the environment gives them: states and rewards in double precision, actions as taken."""

    state: Tensor
    action: Tensor
    next_state: Tensor
    reward: Tensor
    terminated: Tensor

    def transition(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, None, Tensor, Tensor]:
        """Arguments of a reward or termination, floating-point rows in `dtype`."""
        action = self.action.to(dtype) if self.action.is_floating_point() else self.action
        return self.state.to(dtype), None, action, self.next_state.to(dtype)


def make(task: Task) -> gymnasium.Env:
    return gymnasium.make(task.env_id, disable_env_checker=True, **task.env_kwargs)


@cache
def record(env_id: str) -> Recording:
    env, behaviours, steps = make(TASKS[env_id]), cycle(BEHAVIOURS), []
    draws = torch.rand(N_STEPS, row_size(env.action_space), generator=torch.Generator().manual_seed(0)).numpy()
    for seed in count():
        pushed = PUSHED_VELOCITY.get(env_id) if seed % 2 else None
        keep, scale = (1, 1.0) if pushed is not None else next(behaviours)
        state, _ = env.reset(seed=seed)
        for step in range(len(steps), min(len(steps) + MAX_LENGTH, N_STEPS)):
            draw = draws[step - step % keep] if pushed is None else [0.999 * (state[pushed] > 0)]
            action = to_action(env.action_space, draw, scale)
            next_state, reward, terminated, truncated, _ = env.step(action)
            steps.append((state, np.atleast_1d(action), next_state, float(reward), terminated))
            state = next_state
            if terminated or truncated:
                break
        if len(steps) == N_STEPS:
            break
    env.close()
    states, actions, next_states, rewards, terminated = map(np.stack, zip(*steps, strict=True))
    return Recording(
        torch.as_tensor(states, dtype=torch.float64),
        torch.as_tensor(actions),
        torch.as_tensor(next_states, dtype=torch.float64),
        torch.as_tensor(rewards),
        torch.as_tensor(terminated),
    )


def to_action(space, draw, scale):
    """An action from numbers in [0, 1): any of a Discrete, or of a Box around zero, stretched by `scale`."""
    if isinstance(space, Discrete):
        return int(draw[0] * space.n)
    return (scale * (space.low + (space.high - space.low) * draw)).astype(np.float32)
