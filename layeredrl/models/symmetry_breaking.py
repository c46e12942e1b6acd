"""Symmetry-breaking start: a fixed random world in which every action leads somewhere else.

Before anything is learned, all plans look alike to a planner. Answering its queries with a random but consistent
linear map from actions to movements makes it commit to one, so that the first data cover the action space.
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from layeredrl.models.propagation import MemberPrediction

# Standard deviation of a random prediction, in state units.
RANDOM_STD = 0.3


class RandomDynamics(nn.Module):
    """Next state = state + `factor` · (orthonormal map) · action.

    Args:
        n_states, n_actions: feature sizes. The columns of the map are orthonormal; its rows, if actions outnumber
            states. Drawn from torch's global generator and kept in the `state_dict`.
        factor: multiplies the movement.
        duration: environment steps until the learned model answers alone.
    """

    map: Tensor

    def __init__(self, n_states: int, n_actions: int, *, factor: float, duration: int):
        super().__init__()
        self.factor, self.duration = factor, duration
        self.register_buffer("map", nn.init.orthogonal_(torch.empty(n_states, n_actions)))

    def share(self, n_total_env_steps: int) -> float:
        """Weight of the random answer: 1 for the first half of the duration, then fading linearly to 0."""
        return min(max(2.0 * (1.0 - n_total_env_steps / self.duration), 0.0), 1.0)

    def movement(self, action: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch S"]:
        """Where an action leads from any state."""
        return self.factor * einsum(self.map, action, "s a, ... a -> ... s")


def blend(share: float, random_mean: Float[Tensor, "E R S"], learned: MemberPrediction) -> MemberPrediction:
    """A learned prediction faded into a random one, which never terminates."""
    std = share * RANDOM_STD + (1 - share) * learned.next_std
    return MemberPrediction(
        mean=share * rearrange(random_mean, "e r s -> e r 1 s") + (1 - share) * learned.next_mean,
        std=std,
        weights=learned.weights,
        term_prob=(1 - share) * learned.term_prob,
        origin=torch.zeros_like(learned.scale),
        scale=torch.ones_like(learned.scale),
    )
