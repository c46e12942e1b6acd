"""How good an agent is, and how far ahead a model sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from layeredrl.agents.agent import Agent
from layeredrl.data.episodes import concatenate
from layeredrl.metrics.segments import Segments, cut_segments
from layeredrl.models.model import Model
from layeredrl.training.collector import Collector, Episode
from layeredrl.types import Batch

# Rollouts behind the quantiles of a forecast, besides the model's own E·P particles.
FORECAST_REPEATS = 32


def evaluate(
    env: gym.vector.VectorEnv[Any, Any, Any],
    agent: Agent,
    *,
    seed: int,
    progress: bool = False,
    device: torch.device | str = torch.device("cpu"),
) -> list[Episode]:
    """One episode in each environment, in their order; environment `i` starts from `seed + i`."""
    collector = Collector(env, seed=seed, device=device)
    agent.reset()
    first: dict[int, Episode] = {}
    with tqdm(desc="evaluation", unit="step", disable=not progress) as bar:
        while len(first) < collector.env.n_envs:
            for episode in collector.step(agent):
                first.setdefault(episode.env, episode)
            bar.update()
            bar.set_postfix(finished=f"{len(first)}/{collector.env.n_envs}")
    agent.reset()
    return [first[i] for i in sorted(first)]


def cut_episodes(episodes: Sequence[Episode], horizon: int, *, stride: int | None = None) -> Segments:
    """Windows of episodes, as `cut_segments` cuts them, of the length of the longest episode at most."""
    parts = []
    for episode in episodes:
        is_last = torch.zeros_like(episode.reward, dtype=torch.bool)
        is_last[-1] = True
        parts.append(Batch(episode.state[:-1], None, episode.action, episode.state[1:], is_last))
    longest = max(len(episode) for episode in episodes)
    return cut_segments(concatenate(parts), min(horizon, longest), stride=stride)


@dataclass(frozen=True)
class Forecast:
    """What a model foretold from one state of an episode on, knowing the actions only, and what happened.

    Attributes:
        quantiles: of the states that the model's particles reached, at `levels`.
        actual: states of the episode.
        epistemic_std, aleatoric_std: root mean variance over the horizon.
    """

    levels: tuple[float, ...]
    quantiles: Float[Tensor, "Q T S"]
    actual: Float[Tensor, "T S"]
    epistemic_std: Float[Tensor, " S"]
    aleatoric_std: Float[Tensor, " S"]


@torch.no_grad()
def forecast(
    model: Model,
    episode: Episode,
    *,
    horizon: int,
    levels: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95),
    generator: torch.Generator | None = None,
) -> Forecast:
    """Roll the model open loop from the start of an episode, for at most `horizon` steps."""
    if horizon < 1:
        raise ValueError(f"horizon: got {horizon}, expected at least 1")
    horizon = min(horizon, len(episode))
    state = repeat(episode.state[0], "s -> b s", b=FORECAST_REPEATS)
    actions = repeat(episode.action[:horizon], "h a -> b h a", b=FORECAST_REPEATS)
    rollout = model.rollout(state, None, actions, members=model.elites, generator=generator)
    particles = rearrange(rollout.state, "b e p t s -> (b e p) t s")
    epistemic_var, aleatoric_var = (
        var[:, 1:].mean(dim=(0, 1)) for var in (rollout.state_epistemic_var, rollout.state_aleatoric_var)
    )
    return Forecast(
        levels=levels,
        quantiles=particles.quantile(torch.tensor(levels, device=state.device), dim=0),
        actual=episode.state[: horizon + 1],
        epistemic_std=epistemic_var.sqrt(),
        aleatoric_std=aleatoric_var.sqrt(),
    )
