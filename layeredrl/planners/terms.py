"""What is added to a reward, or ends an imagined episode, beside what the task says.

A term is called at every imagined step with the rewards and ends so far, and returns them changed. Terms are
applied in the order in which they are given to `ModelObjective`.

The uncertain ones compare members at the same step of the same plan. Members share their noise, so that they differ
by opinion alone. With `propagation="expectation"`, all members stand at the same state, as the papers have it; with
the other schemes, their paths have drifted apart by then, and that counts too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor

from layeredrl.types import ModelStep

# (step, its actions, its rewards, how far it ends the episode) -> (rewards, ends)
Particles = Float[Tensor, "E P B"]
Term = Callable[[ModelStep, Num[Tensor, "B A"], Particles, Particles], tuple[Particles, Particles]]


@dataclass(frozen=True)
class ActionCost:
    """Less `weight` · ‖a‖², which among plans that are equally good prefers the gentlest."""

    weight: float

    def __call__(
        self, step: ModelStep, action: Num[Tensor, "B A"], reward: Particles, ended: Particles
    ) -> tuple[Particles, Particles]:
        return reward - self.weight * action.square().sum(dim=-1), ended


@dataclass(frozen=True)
class MOPOPenalty:
    """Less `weight` times the largest norm of any member's standard deviation (Yu et al. 2020, section 4.3).

    Attributes:
        weight: λ in the paper, in reward per unit of the norm.
        scale: unit of each state dimension, such as `model.members.targets.scale`; None: the states' own.
    """

    weight: float
    scale: Float[Tensor, " S"] | None = None

    def __call__(
        self, step: ModelStep, action: Num[Tensor, "B A"], reward: Particles, ended: Particles
    ) -> tuple[Particles, Particles]:
        norm = _in_units(step.var.sqrt(), self.scale).norm(dim=-1)
        return reward - self.weight * norm.amax(dim=0), ended


@dataclass(frozen=True)
class MORELHalt:
    """An end, at a price, where members disagree too much (Kidambi et al. 2020, definitions 1 and 2).

    Attributes:
        threshold: the largest distance between the means of any two members that is trusted.
        penalty: κ in the paper: the reward of the step that halts is its negative.
        scale: unit of each state dimension; None: the states' own.
    """

    threshold: float
    penalty: float
    scale: Float[Tensor, " S"] | None = None

    def __call__(
        self, step: ModelStep, action: Num[Tensor, "B A"], reward: Particles, ended: Particles
    ) -> tuple[Particles, Particles]:
        mean = _in_units(step.mean, self.scale)
        distance = torch.stack([(mean - other).norm(dim=-1).amax(dim=0) for other in mean]).amax(dim=0)
        halts = distance > self.threshold
        return torch.where(halts, -self.penalty, reward), torch.where(halts, 1.0, ended)


@dataclass(frozen=True)
class DisagreementBonus:
    """Plus `weight` times the standard deviation between the members' means: where there is something to learn.

    The root of the epistemic variance, summed over state dimensions (as the utility of Pathak et al. 2019).

    Attributes:
        weight: in reward per unit of the deviation; negative, it is a penalty.
        scale: unit of each state dimension; None: the states' own.
    """

    weight: float
    scale: Float[Tensor, " S"] | None = None

    def __call__(
        self, step: ModelStep, action: Num[Tensor, "B A"], reward: Particles, ended: Particles
    ) -> tuple[Particles, Particles]:
        mean = _in_units(step.mean, self.scale)
        # A norm, because the square root of a variance has no gradient where members agree.
        deviation = torch.linalg.vector_norm(mean - mean.mean(dim=0), dim=(0, -1)) / math.sqrt(len(mean))
        return reward + self.weight * deviation, ended


def _in_units(value: Float[Tensor, "*batch S"], scale: Float[Tensor, " S"] | None) -> Float[Tensor, "*batch S"]:
    return value if scale is None else value / scale
