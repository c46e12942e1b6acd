"""Where the transitions come from that a model is learned from and judged by."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Space
from jaxtyping import Bool, Float, Num
from torch import Tensor

from experiments.tasks import find_task, make_env
from layeredrl.agents.agent import Agent
from layeredrl.agents.random_agent import RandomAgent
from layeredrl.data.datasets import load_minari, load_npz
from layeredrl.data.episodes import concatenate, split_episodes
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.spaces import check_rows
from layeredrl.training.collector import Collector
from layeredrl.types import Batch

# Transitions that are collected, unless given.
N_COLLECTED = 20_000


class Spaces(NamedTuple):
    """Of the transitions, and which coordinates of the state a network shouldn't read."""

    state: Space[Any]
    action: Space[Any]
    hidden: tuple[int, ...]


class FunctionAgent(Agent):
    """Acts by a function from rows of states to rows of actions."""

    def __init__(self, function: Callable[[Float[Tensor, "V S"]], Num[Tensor, "V A"]]):
        self.function = function

    def act(
        self, state: Float[Tensor, "V S"], context: Num[Tensor, "V C"] | None = None
    ) -> tuple[Num[Tensor, "V A"], dict[str, Float[Tensor, " V"]]]:
        return self.function(state), {}

    def reset(self, mask: Bool[Tensor, " V"] | None = None) -> None:
        """There is nothing to forget."""


def find_transitions(
    env_id: str | None,
    files: Sequence[Path],
    dataset_id: str | None,
    policy: str | None,
    *,
    n: int | None,
    generator: torch.Generator,
) -> tuple[Spaces, Batch]:
    """Transitions in the order of time: on file, of a Minari dataset or, without either, of a policy.

    Args:
        env_id: environment. None is enough for a Minari dataset, which knows its own spaces.
        files: `.npz` files.
        dataset_id: of a Minari dataset.
        policy: `module:NAME` of an agent, or of a function from states to actions; None: random actions.
        n: transitions to collect, 20,000 if None; or whole episodes of so many, to be drawn from recorded ones.
        generator: source of the randomness.
    """
    given = [flag for flag, value in (("--data", files), ("--minari", dataset_id), ("--policy", policy)) if value]
    if len(given) > 1:
        raise SystemExit(f"{' and '.join(given)}: got both, expected one source of transitions")
    if dataset_id is not None:
        spaces, batch = _from_minari(dataset_id, None if env_id is None else env_spaces(env_id))
    elif env_id is None:
        raise SystemExit("--env-id: got none, expected the environment that the transitions are of")
    elif files:
        spaces = env_spaces(env_id)
        batch = load_files(files, spaces)
    else:
        return env_spaces(env_id), _collect(env_id, policy, N_COLLECTED if n is None else n, generator)
    if n is not None and n < len(batch):
        batch = split_episodes(batch, n / len(batch), generator=generator)[1]
    return spaces, batch


def env_spaces(env_id: str) -> Spaces:
    task = find_task(env_id, None, learn_reward=True)
    env = make_env(task, n_envs=1)
    return Spaces(env.single_observation_space, env.single_action_space, task.hidden)


def load_files(files: Sequence[Path], spaces: Spaces) -> Batch:
    """Transitions of `.npz` files, one file after another; whatever can't be learned from is refused."""
    batch = concatenate([_load(file, spaces) for file in files])
    if len(batch) == 0:
        raise SystemExit(f"{', '.join(map(str, files))}: got no transitions, expected some")
    return batch


def _load(file: Path, spaces: Spaces) -> Batch:
    try:
        batch = load_npz(file, spaces.state, spaces.action)
        batch.check_finite()
        check_rows("Batch.action", batch.action, spaces.action, contained=True)
    except (OSError, TypeError, ValueError) as error:
        raise SystemExit(f"{file}: {error}") from None
    return batch


def _from_minari(dataset_id: str, expected: Spaces | None) -> tuple[Spaces, Batch]:
    try:
        batch, *found = load_minari(dataset_id)
    except (ImportError, TypeError, ValueError) as error:
        raise SystemExit(f"--minari: {error}") from None
    if expected is None:
        return Spaces(found[0], found[1], hidden=()), batch
    for name, got, wanted in zip(("states", "actions"), found, expected, strict=False):
        if got != wanted:
            raise SystemExit(
                f"--minari: got {name} of {got} in {dataset_id}, expected {wanted} as in --env-id. Leave --env-id "
                "out to take the dataset as it is"
            )
    return expected, batch


def _collect(env_id: str, policy: str | None, n: int, generator: torch.Generator) -> Batch:
    env = make_env(find_task(env_id, None, learn_reward=True), n_envs=1)
    state_space, action_space = env.single_observation_space, env.single_action_space
    agent = RandomAgent(action_space, generator=generator) if policy is None else _find_agent(policy)
    buffer = ReplayBuffer(state_space, None, action_space, capacity=n)
    Collector(env, buffer, seed=int(torch.randint(2**31, (), generator=generator))).collect(agent, n)
    return buffer[:]


def _find_agent(path: str) -> Agent:
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SystemExit(f"--policy: got {path}, expected module:NAME of something importable ({error})") from None
    if isinstance(found, Agent):
        return found
    if not callable(found):
        raise SystemExit(f"--policy: got a {type(found).__name__} at {path}, expected an Agent or a function")
    return FunctionAgent(found)
