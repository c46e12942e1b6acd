"""What a plan is worth according to a learned model. The only file that knows both planners and models."""

from collections.abc import Callable

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float, Num
from torch import Tensor

from layeredrl.models.model import Model
from layeredrl.models.propagation import check_propagation
from layeredrl.planners.planner import Objective
from layeredrl.types import Propagation, Rollout

# (state, context, action, next_state), each with any leading dims -> one value per transition
RewardFunction = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]
TerminationFunction = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]


class ModelObjective:
    """Expected discounted return of a plan, over all particles of a model's rollout.

    Args:
        model: what foretells the states.
        reward: of a transition.
        termination: whether a transition ends the episode, where that is known. None: the model's probability of
            termination counts instead.
        discount: per step.
        propagation: how particles move through members, see `layeredrl.models.propagation`.
        use_elites: roll only the members that explain held-out data best.
    """

    def __init__(
        self,
        model: Model,
        reward: RewardFunction,
        termination: TerminationFunction | None = None,
        *,
        discount: float = 1.0,
        propagation: Propagation = "ts_inf",
        use_elites: bool = True,
    ):
        if not 0 < discount <= 1:
            raise ValueError(f"discount: got {discount}, expected a number in (0, 1]")
        check_propagation(propagation)
        self.model = model
        self.reward, self.termination = reward, termination
        self.discount, self.propagation, self.use_elites = discount, propagation, use_elites

    def __call__(
        self,
        state: Float[Tensor, "V S"],
        context: Num[Tensor, "V C"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Objective:
        """The objective of plans that start in the given states."""

        everyone = len(self.model.elites) == self.model.n_models or not self.use_elites
        members = None if everyone else self.model.elites

        def objective(plans: Num[Tensor, "V N H A"]) -> Float[Tensor, "V N"]:
            n_plans = plans.shape[1]
            states = repeat(state, "v s -> (v n) s", n=n_plans)
            contexts = None if context is None else repeat(context, "v c -> (v n) c", n=n_plans)
            actions = rearrange(plans, "v n h a -> (v n) h a")
            rollout = self.model.rollout(
                states, contexts, actions, propagation=self.propagation, members=members, generator=generator
            )
            return rearrange(self.returns(rollout, contexts, actions), "(v n) -> v n", n=n_plans)

        return objective

    def returns(
        self, rollout: Rollout, context: Num[Tensor, "B C"] | None, actions: Num[Tensor, "B H A"]
    ) -> Float[Tensor, " B"]:
        """Mean over particles of the discounted sum of rewards, each weighted by the probability to be alive."""
        transition = (
            rollout.state[..., :-1, :],
            None if context is None else rearrange(context, "b c -> b 1 1 1 c"),
            rearrange(actions, "b h a -> b 1 1 h a"),
            rollout.state[..., 1:, :],
        )
        reward = _per_step("reward", self.reward(*transition), rollout)
        ended = rollout.term_prob
        if self.termination is not None:
            ended = _per_step("termination", self.termination(*transition), rollout).to(reward.dtype)
        survival = (1 - ended).cumprod(dim=-1)
        alive = torch.cat([torch.ones_like(survival[..., :1]), survival[..., :-1]], dim=-1)
        discounts = self.discount ** torch.arange(actions.shape[1], device=actions.device)
        # What is imagined after a certain end may be anything, even infinite: it doesn't count.
        weighted = torch.where(alive > 0, alive * discounts * reward, 0.0)
        return reduce(weighted, "b e p h -> b e p", "sum").mean(dim=(1, 2))


def _per_step(name: str, value: Tensor, rollout: Rollout) -> Float[Tensor, "B E P H"] | Bool[Tensor, "B E P H"]:
    """What a user's function returned, checked to be one value per step of each particle."""
    shape = rollout.term_prob.shape
    fits = value.ndim == len(shape) and all(n in (1, m) for n, m in zip(value.shape, shape, strict=True))
    if not fits:
        raise ValueError(
            f"{name}: got values of shape {tuple(value.shape)}, expected what broadcasts to {tuple(shape)}: "
            "one value per transition"
        )
    return value.expand(shape)
