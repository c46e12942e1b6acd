"""What a plan is worth whose particles don't agree."""

import math
from collections.abc import Callable

from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from layeredrl.planners.checks import check_positive, check_share

# Returns of all particles of all members -> one value per plan
Risk = Callable[[Float[Tensor, "E P B"]], Float[Tensor, " B"]]


def mean(returns: Float[Tensor, "E P B"]) -> Float[Tensor, " B"]:
    """Indifferent to risk."""
    return reduce(returns, "e p b -> b", "mean")


def worst_member(returns: Float[Tensor, "E P B"]) -> Float[Tensor, " B"]:
    """As bad as the most pessimistic member expects, noise averaged: averse to ignorance alone.

    For `ts_inf`, where particles stay with their member.
    """
    return reduce(returns, "e p b -> e b", "mean").amin(dim=0)


class CVaR:
    """Conditional value at risk: the mean of the worst share α of all particles (Rockafellar & Uryasev 2000).

    Averse to noise and ignorance alike. With n particles, the worst ⌈α n⌉ count, the last of them in part.

    Args:
        alpha: the share, in (0, 1]; 1 is the mean.
    """

    def __init__(self, alpha: float):
        check_positive("alpha", alpha)
        check_share("alpha", alpha)
        self.alpha = alpha

    def __call__(self, returns: Float[Tensor, "E P B"]) -> Float[Tensor, " B"]:
        worst_first = rearrange(returns, "e p b -> (e p) b").sort(dim=0).values
        share = self.alpha * len(worst_first)
        n_whole = math.floor(share)
        total = worst_first[:n_whole].sum(dim=0)
        if n_whole < share:
            total = total + (share - n_whole) * worst_first[n_whole]
        return total / share
