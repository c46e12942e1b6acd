"""The abstract base of agents: states in, actions out, for many environments at once."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float, Num
from torch import Tensor


class Agent(ABC):
    """Acts in V environments. It may remember their past until it is told to forget."""

    @abstractmethod
    def act(
        self, state: Float[Tensor, "V S"], context: Num[Tensor, "V C"] | None = None
    ) -> tuple[Num[Tensor, "V A"], dict[str, Float[Tensor, " V"]]]:
        """Actions to execute now, and figures about them (such as `value`, if the agent expects one)."""

    @abstractmethod
    def reset(self, mask: Bool[Tensor, " V"] | None = None) -> None:
        """Forget the environments where `mask` is True, as their episode is another one now; None: all of them."""
