"""What is known of an environment: its reward and its termination as functions of a transition."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from layeredrl.types import TransitionFunction

# Leading dims broadcast: the states of many particles may share the actions of one plan.
State = Float[Tensor, "*#batch S"]
Context = Num[Tensor, "*#batch C"] | None
Action = Num[Tensor, "*#batch A"]


@dataclass(frozen=True)
class Task:
    """An environment whose reward and termination are known as functions of a transition.

    States are the environment's observations as flat rows, actions flat rows too (integers `(…, 1)` if Discrete).

    Attributes:
        env_id: for `gymnasium.make`.
        reward: `(state, context, action, next_state)` -> one value per transition, for any leading dims.
        termination: of the same arguments -> whether the transition ends the episode (a time limit doesn't count).
        env_kwargs: more arguments for `gymnasium.make`, without which the observation would lack what the reward
            is made of.
        hidden: indices of the state coordinates that a network shouldn't read, because what happens doesn't depend
            on them: neither the other coordinates nor the change of these. A place along an endless floor is one.
    """

    env_id: str
    reward: TransitionFunction
    termination: TransitionFunction
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    hidden: tuple[int, ...] = ()


def never(state: State, context: Context, action: Action, next_state: State) -> Bool[Tensor, "*batch"]:
    """No state ends the episode."""
    return torch.zeros_like(next_state[..., 0], dtype=torch.bool)
