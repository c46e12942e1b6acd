"""The registry of gymnasium environments whose reward and termination are known.

Their functions are in `classic_control.py` and `mujoco.py` beside this file; all are checked against the real
environments, step by step.
"""

from layeredrl.envs.classic_control import (
    acrobot_reward,
    acrobot_termination,
    cartpole_reward,
    cartpole_termination,
    mountain_car_continuous_reward,
    mountain_car_continuous_termination,
    pendulum_reward,
)
from layeredrl.envs.mujoco import (
    ant_reward,
    ant_termination,
    half_cheetah_reward,
    hopper_reward,
    hopper_termination,
    inverted_double_pendulum_reward,
    inverted_double_pendulum_termination,
    inverted_pendulum_reward,
    inverted_pendulum_termination,
    pusher_reward,
    reacher_reward,
    swimmer_reward,
    walker2d_reward,
    walker2d_termination,
)
from layeredrl.envs.task import Task, never

__all__ = ["TASKS", "Task", "never", "pendulum_reward"]

WITH_POSITIONS = {"exclude_current_positions_from_observation": False}
# Coordinates along the floor or in the water: x, or x and y.
X, X_Y = (0,), (0, 1)

TASKS = {
    task.env_id: task
    for task in (
        Task("Pendulum-v1", pendulum_reward, never),
        Task("MountainCarContinuous-v0", mountain_car_continuous_reward, mountain_car_continuous_termination),
        Task("CartPole-v1", cartpole_reward, cartpole_termination),
        Task("Acrobot-v1", acrobot_reward, acrobot_termination),
        Task("InvertedPendulum-v5", inverted_pendulum_reward, inverted_pendulum_termination),
        Task("InvertedDoublePendulum-v5", inverted_double_pendulum_reward, inverted_double_pendulum_termination),
        Task("Reacher-v5", reacher_reward, never),
        Task("Pusher-v5", pusher_reward, never),
        Task("HalfCheetah-v5", half_cheetah_reward, never, WITH_POSITIONS, hidden=X),
        Task("Hopper-v5", hopper_reward, hopper_termination, WITH_POSITIONS, hidden=X),
        Task("Walker2d-v5", walker2d_reward, walker2d_termination, WITH_POSITIONS, hidden=X),
        Task("Ant-v5", ant_reward, ant_termination, WITH_POSITIONS, hidden=X_Y),
        Task("Swimmer-v5", swimmer_reward, never, WITH_POSITIONS, hidden=X_Y),
    )
}
