"""What is added to a reward, or ends an imagined episode, beside what the task says.

A term is called at every imagined step with the rewards and ends so far, and returns them changed. Terms are
applied in the order in which they are given to `ModelObjective`.

The uncertain ones compare members at the same step of the same plan. Members share their noise, so that they differ
by opinion alone. With `propagation="expectation"`, all members stand at the same state, as the papers have it; with
the other schemes, their paths have drifted apart by then, and that counts too. Not so for a model's
`epistemic_limit`, which has all members asked where each particle is: a step then takes E times as long, except
with `"expectation"`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from layeredrl.types import ModelStep, Trust

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
class MaxDistance:
    """A `Trust` in steps on which no two members are far apart (Kidambi et al. 2020, definition 1).

    What is too far is yours to say; `ProbabilisticEnsemble.epistemic_limit` learns it. All particles that share
    their noise are trusted alike.

    Attributes:
        threshold: the largest distance between the means of any two members that is trusted.
        scale: unit of each state dimension; None: the states' own.
    """

    threshold: float
    scale: Float[Tensor, " S"] | None = None

    def __call__(self, step: ModelStep) -> Bool[Tensor, "E P B"]:
        step.check_members()
        mean = _in_units(step.mean, self.scale)
        distance = torch.stack([(mean - other).norm(dim=-1).amax(dim=0) for other in mean]).amax(dim=0)
        return (distance <= self.threshold).expand(mean.shape[:-1])


@dataclass(frozen=True)
class Halt:
    """An end, at a price, where a particle's step isn't trusted (Kidambi et al. 2020, definition 2).

    Attributes:
        trust: such as `model.epistemic_limit`, once `model.fit_epistemic_limit(held_out)` was called, or a
            `MaxDistance`.
        penalty: κ in the paper: the reward of the step that halts is its negative. Nothing counts after it, so
            where rewards are negative, it has to exceed what else would be lost.
    """

    trust: Trust
    penalty: float

    def __call__(
        self, step: ModelStep, action: Num[Tensor, "B A"], reward: Particles, ended: Particles
    ) -> tuple[Particles, Particles]:
        trusted = self.trust(step)
        return torch.where(trusted, reward, -self.penalty), torch.where(trusted, ended, 1.0)


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
