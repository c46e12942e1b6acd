"""Climbing from a plan along the gradient of the objective."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from layeredrl.planners.candidates import Objective, best, evaluate
from layeredrl.planners.checks import check_count, check_positive
from layeredrl.planners.search_space import SearchSpace
from layeredrl.spaces import clip


@dataclass(frozen=True)
class GradientRefinement:
    """A few steps of Adam through the objective, which has to be differentiable.

    Attributes:
        n_steps: of Adam.
        learning_rate: in units of the search's initial standard deviation.
    """

    n_steps: int = 5
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        check_count("n_steps", self.n_steps)
        check_positive("learning_rate", self.learning_rate)


def refine(
    objective: Objective, plan: Float[Tensor, "V H A"], space: SearchSpace, refinement: GradientRefinement
) -> tuple[Float[Tensor, "V H A"], Float[Tensor, " V"]]:
    """The plan after some steps of gradient ascent; the plan itself, where these made it no better.

    Both are valued in one call of the objective, so that neither owes its value to a lucky draw made earlier.

    Raises:
        ValueError: the objective's values don't depend on the actions in a differentiable way.
    """
    with torch.enable_grad():
        offset = torch.zeros_like(plan, requires_grad=True)
        optimizer = torch.optim.Adam([offset], lr=refinement.learning_rate)
        for _ in range(refinement.n_steps):
            moved = clip(space.action_space, plan + offset * space.initial_std)
            values = objective(rearrange(moved, "v h a -> v 1 h a"))
            if not values.requires_grad:
                raise ValueError("refinement: got an objective without a gradient, expected a differentiable one")
            (gradient,) = torch.autograd.grad(-values.sum(), offset)
            # Environments whose gradient is broken stay where they are.
            offset.grad = torch.where(gradient.isfinite().all(dim=(1, 2), keepdim=True), gradient, 0.0)
            optimizer.step()
    moved = clip(space.action_space, plan + offset.detach() * space.initial_std)
    candidates = torch.stack([moved, plan], dim=1)
    return best(candidates, evaluate(objective, candidates))
