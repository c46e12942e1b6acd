"""The reward model as a plain loop over its members, with torch.distributions."""

import torch
from gymnasium.spaces import Discrete
from torch import nn
from torch.distributions import Normal
from torch.nn.functional import linear, softplus

from layeredrl.models.reward_model import RewardModel


class LoopRewards:
    """Reads the weights of a reward model with SiLU nets, and does everything else on its own."""

    def __init__(self, model: RewardModel, hidden_states: tuple[int, ...] = ()):
        self.model, self.hidden_states = model, hidden_states

    def laws(self, state, context, action, next_state) -> list[Normal]:
        """The Gaussian that each member expects, for rows `(B, …)`."""
        inputs = (self._inputs(state, context, action, next_state) - self.model.inputs.mean).double()
        return [self._law(e, inputs / self.model.inputs.var.double().sqrt()) for e in range(self.model.n_models)]

    def _inputs(self, state, context, action, next_state):
        keep = [i for i in range(state.shape[-1]) if i not in self.hidden_states]
        parts = [state[:, keep], self._one_hot(self.model.action_space, action), next_state - state]
        if context is not None:
            parts.append(self._one_hot(self.model.context_space, context))
        return torch.cat(parts, dim=1)

    def _one_hot(self, space, value):
        return torch.eye(int(space.n))[value[:, 0] - int(space.start)] if isinstance(space, Discrete) else value

    def _law(self, e, x) -> Normal:
        own = {name: value[e].double() for name, value in self.model.nets.members.state_dict().items()}
        layers = sorted(name.removesuffix(".weight") for name in own if name.endswith(".weight"))
        *hidden, head = sorted(layers, key=lambda name: int(name.removeprefix("net.")))
        for name in hidden:
            x = nn.functional.silu(linear(x, own[f"{name}.weight"], own[f"{name}.bias"]))
        mean, log_std = linear(x, own[f"{head}.weight"], own[f"{head}.bias"]).T
        log_std = 0.25 - softplus(0.25 - log_std)
        log_std = -5.0 + softplus(log_std + 5.0)
        scale = self.model.rewards.var.double().sqrt()
        return Normal(mean * scale + self.model.rewards.mean, log_std.exp() * scale)
