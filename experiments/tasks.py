"""From an environment's name to a task and a vector environment."""

import importlib
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from torch import Tensor

from layeredrl.envs.tasks import TASKS, Task


def unknown(state: Tensor, context: Tensor | None, action: Tensor, next_state: Tensor) -> Tensor:
    """In the place of a reward and a termination that are learned."""
    raise NotImplementedError("this task has no known reward and termination")


def find_task(env_id: str, path: str | None, *, learn_reward: bool = False) -> Task:
    """The task at `path` (`module:NAME`) if there is one, else the known task of the environment.

    An environment that nothing is known about will do where the reward is learned.
    """
    if path is None:
        if env_id not in TASKS and learn_reward:
            return Task(env_id, unknown, unknown)
        if env_id not in TASKS:
            raise SystemExit(
                f"--env-id: got {env_id}, but the reward is known for {', '.join(TASKS)} only.\n"
                "For another environment, learn it with --learn-reward. Or write its reward and termination as "
                "functions of a transition (see layeredrl/envs/tasks.py), make a Task of them, and name it: --task "
                "my_module:MY_TASK"
            )
        return TASKS[env_id]
    module, _, name = path.partition(":")
    try:
        task = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SystemExit(f"--task: got {path}, expected module:NAME of an importable Task ({error})") from None
    if not isinstance(task, Task):
        raise SystemExit(f"--task: got a {type(task).__name__} at {path}, expected a layeredrl.envs.tasks.Task")
    return task


def make_env(task: Task, n_envs: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    """The task's environment, `n_envs` times, in a mode that wastes no step on resetting."""
    try:
        return gym.make_vec(
            task.env_id,
            n_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            **task.env_kwargs,
        )
    except gym.error.Error as error:
        raise SystemExit(f"--env-id: gymnasium can't make {task.env_id}: {error}") from None
