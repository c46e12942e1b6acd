"""What plans promised against what they got."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from layeredrl.training.collector import Episode


@dataclass(frozen=True)
class PlanOutcomes:
    """Plans of an episode whose whole horizon has been lived through, or that met the end of the episode.

    Attributes:
        promised: value of each plan.
        realised: what was earned over the steps of its horizon, discounted alike, although later plans have chosen
            most of the actions. After an end, nothing is. If the objective has a terminal value, that of the state
            that was really reached counts as well.
    """

    promised: Float[Tensor, " plans"]
    realised: Float[Tensor, " plans"]

    @property
    def gap(self) -> Float[Tensor, " plans"]:
        """Promised but not earned: how far the planner has exploited what its model gets wrong."""
        return self.promised - self.realised

    def __len__(self) -> int:
        return len(self.promised)


def plan_outcomes(episode: Episode, *, horizon: int, discount: float = 1.0) -> PlanOutcomes:
    """Compare the plans of an episode with what came of them; of one that wasn't planned, there are none.

    Left out are plans whose horizon a time limit has cut, as nobody knows what they would have earned.

    A state's terminal value is what it was when the state was reached, before any later fit. A measure of risk or a
    penalty in the objective lowers what is promised, but not what is realised.

    Args:
        episode: acted by an `MPCAgent`.
        horizon: of its plans.
        discount: of its objective, per step.
    """
    n_steps, info = len(episode), episode.info
    if "value" not in info:
        return PlanOutcomes(episode.reward[:0], episode.reward[:0])
    realised = realised_returns(episode.reward, horizon, discount)
    n_whole = n_steps - horizon + 1
    if "terminal_value" in info:
        # The state after the last step has no value: it is no state to go on from, or none was asked for.
        later = torch.cat([info["terminal_value"], realised.new_zeros(horizon)])[horizon : horizon + n_steps]
        realised = realised + discount**horizon * later
        n_whole -= 1
    compared = torch.arange(n_steps) < (n_steps if episode.terminated else n_whole)
    if "plan_age" in info:
        compared &= info["plan_age"].cpu() == 0
    where = compared.nonzero().squeeze(-1).to(realised.device)
    return PlanOutcomes(info["value"][where], realised[where])


def realised_returns(reward: Float[Tensor, " T"], horizon: int, discount: float) -> Float[Tensor, " T"]:
    """Discounted sum of the `horizon` rewards from each step on; fewer at the end of the episode."""
    padded = torch.cat([reward, reward.new_zeros(horizon - 1)])
    discounts = discount ** torch.arange(horizon, device=reward.device)
    return padded.unfold(0, horizon, 1) @ discounts.to(reward)
