"""Transitions to judge a model's trust in itself by: of chance, of a half-trained policy, and of a better one.

Soft actor-critic (stable-baselines3, with its defaults) learns a task. Half-trained is what it is after half of its
steps, better what it is after all of them. A model learns from chance and the half-trained policy, is judged by
other episodes of theirs, and should notice that it has never been where the better one goes (`model_quality.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box
from gymnasium.wrappers import TransformObservation
from jaxtyping import Float
from torch import Tensor

from experiments.model_quality_data import FunctionAgent
from experiments.tasks import find_task, make_env
from layeredrl.agents.agent import Agent
from layeredrl.agents.random_agent import RandomAgent
from layeredrl.data.episodes import concatenate
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.envs.tasks import Task
from layeredrl.training.collector import Collector
from layeredrl.types import Batch

SB3_MISSING = "stable-baselines3, which learns the policies, isn't installed: .venv/bin/pip install -e '.[dev]'"
# What is collected next starts from seeds so far away: nobody needs as many episodes.
SEEDS_APART = 10_000


@dataclass(frozen=True)
class Args:
    """Let soft actor-critic learn a task, and record chance, the half-trained policy and the better one."""

    env_id: str
    """Environment of continuous actions."""
    steps: int = 40_000
    """Environment steps that the better policy learns for, of about 12 ms. Half-trained is after half of them."""
    train: int = 20_000
    """Transitions in train.npz: half of them of chance, the others of the half-trained policy."""
    test: int = 8_000
    """Transitions in test.npz, likewise, of other episodes."""
    shifted: int = 4_000
    """Transitions in shifted.npz, of the better policy."""
    seed: int = 0
    """Of learning and collecting."""
    out: Path | None = None
    """Folder for the files and both policies. Default: runs/policies/ENV_ID."""


class Recording(NamedTuple):
    """Transitions in the order of time, and the returns of the episodes that came to an end."""

    batch: Batch
    returns: list[float]


def main(args: Args) -> None:
    task = find_task(args.env_id, None, learn_reward=True)
    folder = args.out or Path("runs/policies") / args.env_id
    folder.mkdir(parents=True, exist_ok=True)
    learner = make_learner(task, args.seed)
    policy = make_agent(learner, task)
    chance = RandomAgent(learner.action_space, generator=torch.Generator().manual_seed(args.seed))

    learner.learn(args.steps // 2)
    learner.save(folder / "half.zip")
    seeds = (args.seed + i * SEEDS_APART for i in range(1, 6))
    train = [record(task, agent, args.train // 2, next(seeds)) for agent in (chance, policy)]
    test = [record(task, agent, args.test // 2, next(seeds)) for agent in (chance, policy)]
    save(folder / "train.npz", train)
    save(folder / "test.npz", test)
    learner.learn(args.steps - args.steps // 2, reset_num_timesteps=False)
    learner.save(folder / "better.zip")
    shifted = record(task, policy, args.shifted, next(seeds))
    save(folder / "shifted.npz", [shifted])

    for name, recording in (("chance", train[0]), ("half-trained", train[1]), ("better", shifted)):
        print(f"{name}: {tell_returns(recording.returns)}")
    print(f"Transitions and policies: {folder}")


def make_learner(task: Task, seed: int) -> Any:
    """Soft actor-critic, which doesn't see coordinates that the task hides."""
    try:
        from stable_baselines3 import SAC
    except ModuleNotFoundError:
        raise SystemExit(SB3_MISSING) from None
    env = gym.make(task.env_id, **task.env_kwargs)
    space = env.observation_space
    if not isinstance(space, Box) or not isinstance(env.action_space, Box):
        raise SystemExit(
            f"--env-id: got {task.env_id} of {space} and {env.action_space}, expected Boxes, which SAC is made for"
        )
    seen = Box(np.delete(space.low, task.hidden), np.delete(space.high, task.hidden), dtype=space.dtype.type)
    env = TransformObservation(env, lambda state: np.delete(state, task.hidden), seen)
    return SAC("MlpPolicy", env, learning_starts=1000, seed=seed, device="cpu")


def make_agent(learner: Any, task: Task) -> FunctionAgent:
    """Acts as the learner does when it learns, which draws from its policy."""

    def act(state: Float[Tensor, "V S"]) -> Float[Tensor, "V A"]:
        action, _ = learner.predict(np.delete(state.numpy(), task.hidden, axis=1), deterministic=False)
        return torch.from_numpy(action)

    return FunctionAgent(act)


def record(task: Task, agent: Agent, n: int, seed: int) -> Recording:
    """`n` transitions from a new episode on; the last one may be cut off."""
    env = make_env(task, n_envs=1)
    buffer = ReplayBuffer(env.single_observation_space, None, env.single_action_space, capacity=n)
    episodes = Collector(env, buffer, seed=seed).collect(agent, n)
    return Recording(buffer[:], [episode.return_ for episode in episodes])


def save(path: Path, recordings: Sequence[Recording]) -> None:
    """One after another."""
    batch = concatenate([recording.batch for recording in recordings])
    arrays: dict[str, Any] = {name: value.numpy() for name, value in batch.items()}
    np.savez(path, **arrays)


def tell_returns(returns: list[float]) -> str:
    if not returns:
        return "no episode came to its end"
    return f"mean return {np.mean(returns):.0f} of {len(returns)} episodes"


if __name__ == "__main__":
    main(tyro.cli(Args))
