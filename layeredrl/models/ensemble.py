"""What an ensemble is to whoever trains it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from gymnasium.spaces import Box, Space
from jaxtyping import Float, Int
from torch import Tensor, nn

from layeredrl.models.examples import Examples, share_out
from layeredrl.models.losses import MemberScores
from layeredrl.spaces import check_rows, check_space
from layeredrl.types import Batch


class Ensemble(ABC, nn.Module):
    """E members that learn from transitions, and are judged and stopped, each on its own.

    Attributes:
        n_models: members E.
        state_space, context_space, action_space: of the transitions; `context_space=None` means no context.
        is_elite: `(E,)`, a buffer that the constructor registers.
        partition_batch: whether a member learns from every E-th of the transitions for all only.
        compiled: whether it was made with `compile=True`, which holds for its optimizer too.
    """

    n_models: int
    state_space: Space[Any]
    context_space: Space[Any] | None
    action_space: Space[Any]
    is_elite: Tensor
    partition_batch: bool = False
    compiled: bool = False

    @property
    def device(self) -> torch.device:
        return self.is_elite.device

    @property
    def elites(self) -> Int[Tensor, " elites"]:
        """Indices of the members that explain held-out data best; all, until a trainer has chosen."""
        return self.is_elite.nonzero().squeeze(-1)

    def set_elites(self, members: Int[Tensor, " elites"]) -> None:
        self.is_elite.fill_(False)
        self.is_elite[members] = True

    @abstractmethod
    def get_parameters(self) -> Iterator[Tensor]:
        """What an optimizer is to train. Every tensor has a leading axis E."""

    @abstractmethod
    def get_member_tensors(self) -> dict[str, Tensor]:
        """All that makes up the members, not copied: parameters and buffers with a leading axis E."""

    @abstractmethod
    def set_statistics(self, batch: Batch) -> None:
        """Take the statistics that members are normalised by from these transitions alone."""

    @abstractmethod
    def make_examples(self, batch: Batch) -> Examples:
        """Transitions of any leading dims as the networks read them, by the statistics as they are now."""

    @abstractmethod
    def get_example_losses(self, examples: Examples) -> Float[Tensor, " E"]:
        """What training minimises, for a set of examples `(E, B)` for each member."""

    @abstractmethod
    def get_example_scores(self, examples: Examples) -> MemberScores:
        """How well each member explains the examples `(B,)`, which all count alike."""

    def get_member_losses(self, batch: Batch) -> Float[Tensor, " E"]:
        """What training minimises, for each member.

        Args:
            batch: transitions `(B,)` for all members, split among them if `partition_batch`; or `(E, B)`, a set for
                each. Its values are not checked.
        """
        examples = share_out(self.make_examples(batch), self.n_models, partition=self.partition_batch)
        return self.get_example_losses(examples)

    def get_member_scores(self, batch: Batch) -> MemberScores:
        """How well each member explains the transitions `(B,)`, which all count alike."""
        return self.get_example_scores(self.make_examples(batch))

    def check_batch(self, batch: Batch) -> None:
        """Refuse data that can't be learned from, naming the field and what is wrong with it."""
        batch.check_finite()
        rows = {
            "state": self.state_space,
            "context": self.context_space,
            "action": self.action_space,
            "next_state": self.state_space,
        }
        for name, space in rows.items():
            check_rows(f"Batch.{name}", getattr(batch, name), space, device=self.device, contained=name == "action")


def check_transition_spaces(state_space: object, context_space: object, action_space: object) -> None:
    """Raise a TypeError unless states fill a Box, and contexts, if any, and actions a supported space."""
    if not isinstance(state_space, Box):
        raise TypeError(f"state_space: got {state_space!r}, expected a gymnasium Box")
    check_space("context_space", context_space, optional=True)
    check_space("action_space", action_space)
