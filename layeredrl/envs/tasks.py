"""Exact reward and termination functions of known gymnasium environments.

Each is a function `(state, context, action, next_state)` that broadcasts over any leading dims; states are the
environments' observations. All are checked against the real environments, step by step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

State = Float[Tensor, "*#batch S"]
Context = Num[Tensor, "*#batch C"] | None
Action = Num[Tensor, "*#batch A"]


@dataclass(frozen=True)
class Task:
    """An environment whose reward and termination are known as functions of a transition.

    Attributes:
        env_id: for `gymnasium.make`.
        reward, termination: see the module's docstring.
    """

    env_id: str
    reward: Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]
    termination: Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]


def never(state: State, context: Context, action: Action, next_state: State) -> Bool[Tensor, "*batch"]:
    """No state ends the episode."""
    return torch.zeros_like(next_state[..., 0], dtype=torch.bool)


def pendulum_reward(state: State, context: Context, action: Action, next_state: State) -> Float[Tensor, "*batch"]:
    """Pendulum-v1: squared angle from upright, speed and torque, all before the step."""
    cos, sin, speed = state.unbind(dim=-1)
    torque = action[..., 0].clamp(-2.0, 2.0)
    return -(torch.atan2(sin, cos).square() + 0.1 * speed.square() + 0.001 * torque.square())


def inverted_pendulum_termination(
    state: State, context: Context, action: Action, next_state: State
) -> Bool[Tensor, "*batch"]:
    """InvertedPendulum-v5: the pole leans by more than 0.2 rad, or the simulation broke down."""
    return (next_state[..., 1].abs() > 0.2) | ~next_state.isfinite().all(dim=-1)


def inverted_pendulum_reward(
    state: State, context: Context, action: Action, next_state: State
) -> Float[Tensor, "*batch"]:
    """InvertedPendulum-v5: 1 for every step that doesn't end the episode."""
    return (~inverted_pendulum_termination(state, context, action, next_state)).to(next_state.dtype)


def cartpole_termination(
    state: State, context: Context, action: Action, next_state: State
) -> Bool[Tensor, "*batch"]:
    """CartPole-v1: the cart is more than 2.4 from the centre, the pole leans by more than 12°, or either is NaN."""
    position, angle = next_state[..., 0], next_state[..., 2]
    return ~((position.abs() <= 2.4) & (angle.abs() <= math.radians(12)))


def cartpole_reward(state: State, context: Context, action: Action, next_state: State) -> Float[Tensor, "*batch"]:
    """CartPole-v1: 1 for every step, the last one included."""
    return torch.ones_like(next_state[..., 0])


TASKS = {
    task.env_id: task
    for task in (
        Task("Pendulum-v1", pendulum_reward, never),
        Task("InvertedPendulum-v5", inverted_pendulum_reward, inverted_pendulum_termination),
        Task("CartPole-v1", cartpole_reward, cartpole_termination),
    )
}
