"""Exact rewards and terminations of gymnasium's MuJoCo environments, version 5.

Source: gymnasium 1.4, `gymnasium/envs/mujoco/*_v5.py`, with the default weights and ranges. Exact means below 2e-6
in double precision, unless the docstring says what can't be known from observations.

Rewards for running need the positions that observations leave out by default, hence
`exclude_current_positions_from_observation=False`. In single precision a difference of positions is coarser than
one of speeds: at x = 100 m, Hopper's reward is off by up to 1e-3.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layeredrl.envs.task import Action, Context, State

# Seconds per environment step.
HALF_CHEETAH_DT, HOPPER_DT, WALKER2D_DT, ANT_DT, SWIMMER_DT = 0.05, 0.008, 0.008, 0.05, 0.04
INVERTED_DOUBLE_PENDULUM_LINK = 0.6
# Ant's 15 positions and 14 velocities; the rest of its observation are contact forces.
ANT_MOTION = 29


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


def inverted_double_pendulum_termination(
    state: State, context: Context, action: Action, next_state: State
) -> Bool[Tensor, "*batch"]:
    """InvertedDoublePendulum-v5: the tip of the upper pole is no higher than 1 m.

    The environment reads the tip from the last stage of the Runge-Kutta integration, not from where that ends. The
    answers differ where the tip is within 0.1 mm of the limit: in 3 of 80,000 steps.
    """
    _, height = _tip(next_state)
    return height <= 1.0


def inverted_double_pendulum_reward(
    state: State, context: Context, action: Action, next_state: State
) -> Float[Tensor, "*batch"]:
    """InvertedDoublePendulum-v5: 10 for staying up, less the tip's squared distance from (0, 2 m) and the spin.

    Off by up to 3e-4, for the termination's reason; by up to 0.04 in a step that runs into the end of the rail, and
    by about 1 while a joint turns faster than 10 rad/s, where its observation is clipped.
    """
    place, height = _tip(next_state)
    spin_1, spin_2 = next_state[..., 6], next_state[..., 7]
    up = ~inverted_double_pendulum_termination(state, context, action, next_state)
    distance = 0.01 * place.square() + (height - 2.0).square()
    return 10.0 * up.to(next_state.dtype) - distance - 1e-3 * spin_1.square() - 5e-3 * spin_2.square()


def reacher_reward(state: State, context: Context, action: Action, next_state: State) -> Float[Tensor, "*batch"]:
    """Reacher-v5: distance from fingertip to target, and squared torques."""
    return -_norm(next_state[..., 8:10]) - _effort(action)


def pusher_reward(state: State, context: Context, action: Action, next_state: State) -> Float[Tensor, "*batch"]:
    """Pusher-v5: distances from object to goal and to the tip of the arm, and squared torques."""
    tip, thing, goal = next_state[..., 14:17], next_state[..., 17:20], next_state[..., 20:23]
    return -_norm(thing - goal) - 0.5 * _norm(thing - tip) - 0.1 * _effort(action)


def half_cheetah_reward(
    state: State, context: Context, action: Action, next_state: State
) -> Float[Tensor, "*batch"]:
    """HalfCheetah-v5 with positions: speed forward, less squared torques."""
    return _speed(state, next_state, HALF_CHEETAH_DT) - 0.1 * _effort(action)


def swimmer_reward(state: State, context: Context, action: Action, next_state: State) -> Float[Tensor, "*batch"]:
    """Swimmer-v5 with positions: speed forward, less squared torques."""
    return _speed(state, next_state, SWIMMER_DT) - 1e-4 * _effort(action)


def hopper_termination(state: State, context: Context, action: Action, next_state: State) -> Bool[Tensor, "*batch"]:
    """Hopper-v5 with positions: too low, leaning too far, or any other coordinate at ±100 or beyond.

    The environment looks at true velocities, while observations clip them to ±10: one of 100 goes unseen.
    """
    height, angle = next_state[..., 1], next_state[..., 2]
    standing = (height > 0.7) & height.isfinite() & (angle.abs() < 0.2)
    return ~(standing & (next_state[..., 2:].abs() < 100.0).all(dim=-1))


def hopper_reward(state: State, context: Context, action: Action, next_state: State) -> Float[Tensor, "*batch"]:
    """Hopper-v5 with positions: speed forward, 1 unless the step ends the episode, less squared torques."""
    healthy = ~hopper_termination(state, context, action, next_state)
    return _speed(state, next_state, HOPPER_DT) + healthy.to(next_state.dtype) - 1e-3 * _effort(action)


def walker2d_termination(
    state: State, context: Context, action: Action, next_state: State
) -> Bool[Tensor, "*batch"]:
    """Walker2d-v5 with positions: too low, too high, or leaning too far."""
    height, angle = next_state[..., 1], next_state[..., 2]
    return ~((height > 0.8) & (height < 2.0) & (angle.abs() < 1.0))


def walker2d_reward(state: State, context: Context, action: Action, next_state: State) -> Float[Tensor, "*batch"]:
    """Walker2d-v5 with positions: speed forward, 1 unless the step ends the episode, less squared torques."""
    healthy = ~walker2d_termination(state, context, action, next_state)
    return _speed(state, next_state, WALKER2D_DT) + healthy.to(next_state.dtype) - 1e-3 * _effort(action)


def ant_termination(state: State, context: Context, action: Action, next_state: State) -> Bool[Tensor, "*batch"]:
    """Ant-v5 with positions: too low, too high, or the simulation broke down."""
    height = next_state[..., 2]
    healthy = (height >= 0.2) & (height <= 1.0) & next_state[..., :ANT_MOTION].isfinite().all(dim=-1)
    return ~healthy


def ant_reward(state: State, context: Context, action: Action, next_state: State) -> Float[Tensor, "*batch"]:
    """Ant-v5 with positions: speed forward, 1 unless the step ends the episode, less torques and contact forces.

    Observed contact forces are already clipped to ±1, as the reward wants them.

    Off by 0.006 rms and up to 0.2 while feet hit the floor: the environment takes the torso's place from the last
    stage of the Runge-Kutta integration, up to 9 mm from where that ends. What one step gets too much, the next
    gets too little, so that an episode's return is off by no more than one step.
    """
    healthy = ~ant_termination(state, context, action, next_state)
    contact = next_state[..., ANT_MOTION:].square().sum(dim=-1)
    forward = _speed(state, next_state, ANT_DT)
    return forward + healthy.to(next_state.dtype) - 0.5 * _effort(action) - 5e-4 * contact


def _speed(state: State, next_state: State, dt: float) -> Float[Tensor, "*batch"]:
    return (next_state[..., 0] - state[..., 0]) / dt


def _effort(action: Action) -> Float[Tensor, "*batch"]:
    return action.square().sum(dim=-1)


def _norm(vector: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
    return torch.linalg.vector_norm(vector, dim=-1)


def _tip(state: State) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Place along the rail and height of the double pendulum's tip; the second angle counts from the first link."""
    cart, sin_1, sin_2, cos_1, cos_2 = state[..., :5].unbind(dim=-1)
    sin_sum = sin_1 * cos_2 + cos_1 * sin_2
    cos_sum = cos_1 * cos_2 - sin_1 * sin_2
    place = cart + INVERTED_DOUBLE_PENDULUM_LINK * (sin_1 + sin_sum)
    return place, INVERTED_DOUBLE_PENDULUM_LINK * (cos_1 + cos_sum)
