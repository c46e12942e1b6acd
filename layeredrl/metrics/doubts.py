"""Whether a model is wrong where it is unsure: how unsure and how wrong it is, transition by transition."""

from typing import NamedTuple

import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from layeredrl.metrics.marginals import from_prediction
from layeredrl.metrics.ranks import spearman
from layeredrl.types import Prediction


class Doubts(NamedTuple):
    """How sure a model is of each transition, and how wrong: root mean squares over dimensions, in units of these.

    Attributes:
        epistemic_std: between the members' means.
        std: of the ensemble.
        error: of its mean.
    """

    epistemic_std: Float[Tensor, " N"]
    std: Float[Tensor, " N"]
    error: Float[Tensor, " N"]

    @property
    def rank_correlation(self) -> float:
        """Of epistemic standard deviation and error; 0 where either is the same for all."""
        return float(spearman(self.epistemic_std, self.error))


@torch.no_grad()
def get_doubts(
    prediction: Prediction,
    next_state: Float[Tensor, "N S"],
    unit: Float[Tensor, " S"],
    dims: Bool[Tensor, " S"],
) -> Doubts:
    """Compare what members disagree on with what they are wrong about.

    Args:
        prediction: of all members that count, of transitions that they haven't learned from.
        next_state: where these led.
        unit: of each dimension, such as the standard deviation of how it changes.
        dims: that count, such as those that change.
    """
    forecast = from_prediction(prediction)
    epistemic_var = forecast.moments()[0].var(dim=-2, correction=0)
    mean, var = forecast.pooled().moments()
    squares = epistemic_var, var, (mean - next_state).square()
    return Doubts(*(reduce((x / unit.square())[:, dims], "n s -> n", "mean").sqrt() for x in squares))
