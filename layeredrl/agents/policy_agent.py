"""Act by a policy: in environments, or in a learned model."""

from typing import Any

import torch
from einops import rearrange
from gymnasium.spaces import Space
from jaxtyping import Bool, Float, Num
from torch import Tensor

from layeredrl.agents.agent import Agent
from layeredrl.policies.model import Model
from layeredrl.spaces import check_space, clip


class PolicyAgent(Agent):
    """Acts by a policy of `layeredrl.policies`, whose recurrent state, if it has one, it carries along.

    The policy reads states as `inputs["observations"]` and contexts as `inputs["context"]`. Actions that leave a
    Box, be it the action space or a part of it, are clipped to it.

    Args:
        policy: whose action space is one of gymnasium's; in evaluation mode, if it is recurrent.
        role: to act in.
        deterministic: act by the mode.
        generator: source of the noise.
    """

    def __init__(
        self,
        policy: Model,
        *,
        role: str = "",
        deterministic: bool = False,
        generator: torch.Generator | None = None,
    ):
        if not isinstance(policy, Model):
            raise TypeError(f"policy: got {type(policy).__name__}, expected a layeredrl.policies Model")
        check_space("policy.action_space", policy.action_space)
        self.policy, self.role = policy, role
        self.deterministic, self.generator = deterministic, generator
        self.memory: list[Tensor] | None = None

    @torch.no_grad()
    def act(
        self, state: Float[Tensor, "V S"], context: Num[Tensor, "V C"] | None = None
    ) -> tuple[Num[Tensor, "V A"], dict[str, Float[Tensor, " V"]]]:
        """Actions, and the `log_prob` that they had before clipping, if the policy gives one."""
        actions, outputs = act_by(
            self.policy,
            state,
            context,
            self.memory,
            role=self.role,
            deterministic=self.deterministic,
            generator=self.generator,
        )
        self.memory = outputs.get("rnn")
        return actions, {"log_prob": outputs["log_prob"].sum(dim=-1)} if "log_prob" in outputs else {}

    def reset(self, mask: Bool[Tensor, " V"] | None = None) -> None:
        """Forget the environments where `mask` is True; None: all, and their number."""
        if mask is None:
            self.memory = None
        elif self.memory is not None:
            goes_on = rearrange(~mask, "v -> 1 v 1")
            self.memory = [state * goes_on for state in self.memory]


def act_by(
    policy: Model,
    state: Float[Tensor, "R S"],
    context: Num[Tensor, "R C"] | None,
    memory: list[Tensor] | None,
    *,
    role: str = "",
    deterministic: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Num[Tensor, "R A"], dict[str, Any]]:
    """Actions of a policy, inside its action space, and its outputs."""
    inputs: dict[str, Any] = {"observations": state, "deterministic": deterministic, "generator": generator}
    if context is not None:
        inputs["context"] = context
    if memory is not None:
        inputs["rnn"] = memory
    actions, outputs = policy.act(inputs, role=role)
    if isinstance(policy.action_space, Space):
        actions = clip(policy.action_space, actions)
    return actions, outputs
