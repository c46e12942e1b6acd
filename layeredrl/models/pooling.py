"""Members drawn together: each keeps a share c of its distance from the mean of all of them.

Members that are right about their own errors make a mixture that is too wide: each one's noise holds what its
training has left over, and their disagreement counts that a second time. No mixture of different calibrated
forecasts is calibrated (Gneiting & Ranjan 2013). Less noise alone doesn't help, as no member is right about all of
many dimensions. Kernels that are drawn together keep mixtures of few samples from being too wide elsewhere, too
(Liu & West 2001).
"""

from collections.abc import Callable

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from layeredrl.models.held_out import HeldOut
from layeredrl.models.mixture import mixture_moments
from layeredrl.models.propagation import ActionRows, MemberPrediction, StateRows, StepFunction

EM_STEPS = 100
# Temperatures are fitted as if one more row had been as far off as foretold: so they are never 0.
PRIOR_ROWS = 1

# (rows of states, rows of actions) -> mean target of all members where each of them stands
Consensus = Callable[[StateRows, ActionRows], StateRows]


def fit_pool(held_out: HeldOut) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """The most probable c in 0 … 1 and temperature of each dimension: never less likely than c = T = 1.

    By expectation–maximisation of the density of whole states, under which a member explains all dimensions or
    none. A row is shared out among the components; then c is by least squares, and T the root mean square of the
    scores. Where members agree, c is 1.
    """
    score, log_std, weight, offset = held_out
    centred = score + offset  # with c = 0
    spread, temperature = torch.ones_like(score[0, 0]), torch.ones_like(score[0, 0])
    for _ in range(EM_STEPS):
        square = ((centred - spread * offset) / temperature).square()
        log_share = weight.log() - (0.5 * square + log_std).sum(dim=-1)
        share = rearrange(log_share.softmax(dim=1), "n k -> n k 1")
        length = (share * offset.square()).sum(dim=(0, 1))
        along = (share * offset * centred).sum(dim=(0, 1))
        spread = torch.where(length > 0, (along / length).clamp(0.0, 1.0), 1.0)
        total = (share * (centred - spread * offset).square()).sum(dim=(0, 1)) + PRIOR_ROWS
        temperature = (total / (len(score) + PRIOR_ROWS)).sqrt()
    return spread, temperature


def make_consensus(everyone: StepFunction, n_everyone: int) -> Consensus:
    """What everyone expects in the mean.

    Args:
        everyone: one step of all who count, from `E · R` rows: of the first one who asks, then of the next.
        n_everyone: how many they are.
    """

    def consensus(state: StateRows, action: ActionRows) -> StateRows:
        rows = rearrange(state, "e r s -> (e r) s").expand(n_everyone, -1, -1)
        actions = rearrange(action.expand(len(state), -1, -1), "e r a -> 1 (e r) a")
        mean = reduce(member_mean(everyone(rows, actions)), "everyone rows s -> rows s", "mean")
        return rearrange(mean, "(e r) s -> e r s", e=len(state))

    return consensus


def draw_together(
    prediction: MemberPrediction, consensus: Float[Tensor, "E R S"], spread: Float[Tensor, " S"]
) -> MemberPrediction:
    """Move each member with all of its modes, so that it keeps the share `spread` of its distance."""
    step = (1 - spread) * (consensus - member_mean(prediction))
    return prediction._replace(mean=prediction.mean + rearrange(step, "e r s -> e r 1 s"))


def member_mean(prediction: MemberPrediction) -> Float[Tensor, "E R S"]:
    """Mean target of each member over its modes."""
    return mixture_moments(prediction.mean, prediction.std, prediction.weights)[0]
