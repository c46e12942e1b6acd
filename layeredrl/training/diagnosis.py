"""What scores don't show: how the members of an ensemble differ, and how sure they are."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from layeredrl.metrics.ranks import average_ranks
from layeredrl.models.mixture import mixture_moments
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.types import Batch

# A log standard deviation as near as this to a soft bound (a tenth of the standard deviation) is held by it.
NEAR = 0.1
# Errors beyond so many predicted standard deviations are misses: 5 % of all, where the prediction is true.
MISS = 2.0


class Held(NamedTuple):
    """Log standard deviations that a soft bound holds.

    Attributes:
        bound: in the units of the targets.
        share: of all predictions.
        missed: share of those held whose modes all lie off by more than two of the standard deviations they claim;
            0 where none is held.
    """

    bound: float
    share: Float[Tensor, " S"]
    missed: Float[Tensor, " S"]


@dataclass(frozen=True)
class Diagnosis:
    """What an ensemble says of transitions that it hasn't learned from, in the units of its targets.

    Attributes:
        error_correlation: of the members' errors, as a mean over dimensions: 1, they err as one; 0, their errors
            have nothing in common. Noise is an error that all members share, so that where it prevails, members
            correlate however well they know what can be known. Of ranks, as one transition that nobody could
            foretell would otherwise decide it. NaN where errors don't vary.
        disagreement: how far the members' means typically lie apart (standard deviation over members), per how far
            they typically lie off. Medians over transitions, so that a few that nobody could foretell don't count.
        weight_entropy: of the members' mixtures, on average, in nats: 0, one mode does it all; log M, all alike.
            None where there is but one.
        log_std: what each network says of its likeliest mode, before any recalibration.
        at_lower, at_upper: how much of it the network's bounds hold; None where it isn't known to have any.
        answers: which members' predictions all are finite, and their noise positive.
    """

    error_correlation: Float[Tensor, "E E"]
    disagreement: Float[Tensor, " S"]
    weight_entropy: float | None
    log_std: Float[Tensor, "B E S"]
    at_lower: Held | None
    at_upper: Held | None
    answers: Bool[Tensor, " E"]

    @property
    def mean_correlation(self) -> float:
        """Of all pairs of different members; NaN where there is none, or where errors don't vary."""
        return float(self.error_correlation.clone().fill_diagonal_(torch.nan).nanmean())


@torch.no_grad()
def diagnose(model: ProbabilisticEnsemble, batch: Batch) -> Diagnosis:
    """Ask all members about the transitions `(B, …)`, which should be ones that none has learned from."""
    if len(batch) == 0:
        raise ValueError("batch: got no transitions, expected some to judge the model by")
    batch, scale = batch.to(model.device), model.members.targets.scale
    mean, weights, std, _ = model.predict(batch.state, batch.context, batch.action, loss_mode=True)
    expected, _ = mixture_moments(mean, std, weights)
    error = (expected - rearrange(batch.next_state, "b s -> b 1 s")) / scale
    score = (mean - rearrange(batch.next_state, "b s -> b 1 1 s")) / std
    missed = reduce(score.abs(), "b e m s -> b e s", "min") > MISS
    likeliest = rearrange(weights.argmax(dim=-1), "b e -> b e 1 1")
    log_std = _network_std(model, batch).log().take_along_dim(likeliest, dim=2).squeeze(2)
    at_lower = at_upper = None
    net = model.members.nets.members
    if isinstance(net, ProbFCDynamics):
        low, high = net.min_log_std, net.max_log_std
        at_lower, at_upper = held(low, log_std < low + NEAR, missed), held(high, log_std > high - NEAR, missed)
    return Diagnosis(
        error_correlation=error_correlation(error),
        disagreement=disagreement(error),
        weight_entropy=None if model.n_modes == 1 else float(torch.special.entr(weights).sum(dim=-1).mean()),
        log_std=log_std,
        at_lower=at_lower,
        at_upper=at_upper,
        answers=reduce(mean.isfinite() & std.isfinite() & (std > 0), "b e m s -> e", "all"),
    )


def _network_std(model: ProbabilisticEnsemble, batch: Batch) -> Float[Tensor, "B E M S"]:
    """The networks' own word, in the units of the targets, which alone their bounds hold."""
    step = model.members.step_function(batch.context, None)
    prediction = step(batch.state.expand(model.n_models, -1, -1), rearrange(batch.action, "b a -> 1 b a"))
    return rearrange(prediction.std, "e b m s -> b e m s")


def error_correlation(error: Float[Tensor, "B E S"]) -> Float[Tensor, "E E"]:
    """Spearman's, over transitions, as a mean over the dimensions where it is defined."""
    rank = average_ranks(error)
    centred = torch.where(error.isfinite().all(dim=0), rank - rank.mean(dim=0), torch.nan)
    product = einsum(centred, centred, "b i s, b j s -> s i j")
    length = product.diagonal(dim1=1, dim2=2).sqrt()
    return (product / einsum(length, length, "s i, s j -> s i j")).nanmean(dim=0).to(error)


def disagreement(error: Float[Tensor, "B E S"]) -> Float[Tensor, " S"]:
    """Typical spread of the members, which is that of their errors, per typical error; 0 for a single member."""
    if error.shape[1] == 1:
        return torch.zeros_like(error[0, 0])
    apart = error.std(dim=1, correction=1).median(dim=0).values
    off = rearrange(error, "b e s -> (b e) s").abs().median(dim=0).values
    return torch.where(apart == 0, 0.0, apart / off)


def held(bound: float, is_held: Bool[Tensor, "B E S"], missed: Bool[Tensor, "B E S"]) -> Held:
    """Count what a bound holds, over transitions and members."""
    share, both = (reduce(x.float(), "b e s -> s", "mean") for x in (is_held, is_held & missed))
    return Held(bound, share, torch.where(share == 0, 0.0, both / share))
