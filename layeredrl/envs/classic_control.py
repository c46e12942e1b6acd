"""Exact rewards and terminations of gymnasium's classic control environments.

Source: gymnasium 1.4, `gymnasium/envs/classic_control`. The environments compute in double precision and observe in
single, so that rewards are exact up to the rounding of observations: below 2e-6 if computed in double precision.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layeredrl.envs.task import Action, Context, State


def pendulum_reward(state: State, context: Context, action: Action, next_state: State) -> Float[Tensor, "*batch"]:
    """Pendulum-v1: squared angle from upright, speed and torque, all before the step."""
    cos, sin, speed = state.unbind(dim=-1)
    torque = action[..., 0].clamp(-2.0, 2.0)
    return -(torch.atan2(sin, cos).square() + 0.1 * speed.square() + 0.001 * torque.square())


def cartpole_termination(
    state: State, context: Context, action: Action, next_state: State
) -> Bool[Tensor, "*batch"]:
    """CartPole-v1: the cart is more than 2.4 from the centre, the pole leans by more than 12°, or either is NaN."""
    position, angle = next_state[..., 0], next_state[..., 2]
    return ~((position.abs() <= 2.4) & (angle.abs() <= math.radians(12)))


def cartpole_reward(state: State, context: Context, action: Action, next_state: State) -> Float[Tensor, "*batch"]:
    """CartPole-v1: 1 for every step, the last one included."""
    return torch.ones_like(next_state[..., 0])


def mountain_car_continuous_termination(
    state: State, context: Context, action: Action, next_state: State
) -> Bool[Tensor, "*batch"]:
    """MountainCarContinuous-v0: at the flag or beyond, and not rolling back."""
    position, velocity = next_state.unbind(dim=-1)
    return (position >= 0.45) & (velocity >= 0)


def mountain_car_continuous_reward(
    state: State, context: Context, action: Action, next_state: State
) -> Float[Tensor, "*batch"]:
    """MountainCarContinuous-v0: 100 for the flag, less the squared force as it was asked for, even beyond ±1."""
    at_flag = mountain_car_continuous_termination(state, context, action, next_state)
    return 100.0 * at_flag.to(next_state.dtype) - 0.1 * action[..., 0].square()


def acrobot_termination(
    state: State, context: Context, action: Action, next_state: State
) -> Bool[Tensor, "*batch"]:
    """Acrobot-v1: the tip is more than one link above the pivot."""
    cos_1, sin_1, cos_2, sin_2 = next_state[..., :4].unbind(dim=-1)
    cos_sum = cos_1 * cos_2 - sin_1 * sin_2  # the second angle counts from the first link
    return -cos_1 - cos_sum > 1.0


def acrobot_reward(state: State, context: Context, action: Action, next_state: State) -> Float[Tensor, "*batch"]:
    """Acrobot-v1: −1 for every step that doesn't end the episode."""
    return acrobot_termination(state, context, action, next_state).to(next_state.dtype) - 1.0
