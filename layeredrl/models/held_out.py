"""What held-out transitions say of the members' predictions: all that recalibration is fitted to."""

from typing import NamedTuple

from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from layeredrl.models.mixture import mixture_moments
from layeredrl.models.propagation import MemberPrediction


class HeldOut(NamedTuple):
    """How far N next states lay from what each of K components of a mixture expected. In float64.

    Attributes:
        score: in the components' standard deviations.
        log_std: of the components.
        weight: of the components.
        offset: how far the mean of a component's member lies from that of all members, in the same unit as the
            score.
    """

    score: Float[Tensor, "N K S"]
    log_std: Float[Tensor, "N K S"]
    weight: Float[Tensor, "N K"]
    offset: Float[Tensor, "N K S"]


def compare(prediction: MemberPrediction, next_state: Float[Tensor, "N S"]) -> HeldOut:
    """How far next states lay from what each mode of each member expected."""
    target = (next_state.double() - prediction.origin) / prediction.scale
    score = (rearrange(target, "... n s -> ... n 1 s") - prediction.mean) / prediction.std
    member_mean, _ = mixture_moments(prediction.mean.double(), prediction.std.double(), prediction.weights.double())
    apart = member_mean - reduce(member_mean, "e n s -> n s", "mean")
    return HeldOut(
        score=rearrange(score, "e n m s -> n (e m) s"),
        log_std=rearrange(prediction.std.double().log(), "e n m s -> n (e m) s"),
        weight=rearrange(prediction.weights.double() / len(prediction.weights), "e n m -> n (e m)"),
        offset=rearrange(rearrange(apart, "e n s -> e n 1 s") / prediction.std, "e n m s -> n (e m) s"),
    )
