"""Where environment, agent and buffer meet."""

import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from jaxtyping import Float, Num
from torch import Tensor

from layeredrl.agents.agent import Agent
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.training.autoreset import VectorEnvironment, VectorStep
from layeredrl.types import Batch


@dataclass(frozen=True)
class Episode:
    """One episode of one environment, from its first state to its last.

    Attributes:
        env: index of the environment.
        state: all states, one more than actions.
        action, reward: of each step.
        terminated: whether it ended by the environment's own rules rather than by a time limit.
        info: figures that the agent gave at each step, and `act_seconds`, the wall clock it took for all
            environments.
    """

    env: int
    state: Float[Tensor, "states S"]
    action: Num[Tensor, "T A"]
    reward: Float[Tensor, " T"]
    terminated: bool
    info: dict[str, Float[Tensor, " T"]]

    @property
    def return_(self) -> float:
        """Undiscounted sum of rewards."""
        return float(self.reward.sum())

    def __len__(self) -> int:
        return len(self.action)

    def last(self, n: int) -> "Episode":
        """Its last `n` steps; all, if there aren't as many."""
        n = min(n, len(self))
        info = {name: value[-n:] for name, value in self.info.items()}
        return replace(
            self, state=self.state[-n - 1 :], action=self.action[-n:], reward=self.reward[-n:], info=info
        )


class Collector:
    """Lets an agent act in a vector environment, stores the transitions and cuts the stream into episodes.

    Args:
        env: a gymnasium vector environment, in any autoreset mode.
        buffer: takes the transitions; None: they aren't stored.
        seed: of the first episodes; environment `i` gets `seed + i`.
        device: where the agent works.
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv[Any, Any, Any],
        buffer: ReplayBuffer | None = None,
        *,
        seed: int | None = None,
        device: torch.device | str = torch.device("cpu"),
    ):
        self.env = VectorEnvironment(env, device)
        self.buffer = buffer
        self.n_steps = 0
        self._state = self.env.reset(seed)
        self._traces: list[list[_Moment]] = [[] for _ in range(self.env.n_envs)]

    def step(self, agent: Agent) -> list[Episode]:
        """One step of every environment; the episodes that it ended.

        Raises:
            ValueError: the environment returned something that isn't finite; it isn't stored.
        """
        state = self._state
        start = time.perf_counter()
        action, info = agent.act(state)
        seconds = torch.full((self.env.n_envs,), time.perf_counter() - start)
        step = self.env.step(action)
        self._state = step.start
        self._store(state, action, step)
        self.n_steps += int(step.is_transition.sum())
        self._trace(state, action, {**info, "act_seconds": seconds}, step)
        if bool(step.is_start.any()):
            agent.reset(step.is_start)
        return [self._finish(int(env), step) for env in step.is_last.nonzero()]

    def collect(self, agent: Agent, n_steps: int) -> list[Episode]:
        """Step until there are at least `n_steps` more transitions; the episodes that ended on the way."""
        episodes = []
        end = self.n_steps + n_steps
        while self.n_steps < end:
            episodes += self.step(agent)
        return episodes

    def _store(self, state: Float[Tensor, "V S"], action: Num[Tensor, "V A"], step: VectorStep) -> None:
        if self.buffer is None:
            return
        batch = Batch(
            state=state,
            context=None,
            action=action,
            next_state=step.next_state,
            terminated=step.terminated,
            reward=step.reward,
            truncated=step.truncated,
        )
        self.buffer.add(batch[step.is_transition].to(self.buffer.device))

    def _trace(
        self, state: Float[Tensor, "V S"], action: Num[Tensor, "V A"], info: dict[str, Tensor], step: VectorStep
    ) -> None:
        for env in step.is_transition.nonzero().squeeze(-1).tolist():
            figures = {name: value[env] for name, value in info.items()}
            self._traces[env].append(_Moment(state[env], action[env], step.reward[env], figures))

    def _finish(self, env: int, step: VectorStep) -> Episode:
        moments, self._traces[env] = self._traces[env], []
        # The agent may have changed in mid-episode: what only one of them said is left out.
        names = set.intersection(*(set(moment.info) for moment in moments))
        return Episode(
            env=env,
            state=torch.stack([*(moment.state for moment in moments), step.next_state[env]]),
            action=torch.stack([moment.action for moment in moments]),
            reward=torch.stack([moment.reward for moment in moments]),
            terminated=bool(step.terminated[env]),
            info={name: torch.stack([moment.info[name] for moment in moments]) for name in sorted(names)},
        )


class _Moment(NamedTuple):
    state: Tensor
    action: Tensor
    reward: Tensor
    info: dict[str, Tensor]
