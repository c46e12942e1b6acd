"""Whether a model is wrong where it is unsure: how unsure and how wrong it is, transition by transition."""

from typing import NamedTuple

import torch
from einops import reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layeredrl.metrics.marginals import from_prediction
from layeredrl.metrics.ranks import spearman
from layeredrl.models.model import Model
from layeredrl.types import Batch


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
    model: Model,
    batch: Batch,
    unit: Float[Tensor, " S"],
    dims: Bool[Tensor, " S"],
    *,
    members: Int[Tensor, " members"] | None = None,
    max_rows: int = 4096,
) -> Doubts:
    """Ask a model about transitions `(B,)` that it hasn't learned from.

    Args:
        model: with more than one member; a single one has no epistemic standard deviation but 0.
        batch: transitions, at least one.
        unit: of each dimension, such as the standard deviation of how it changes.
        dims: that count, such as those that change.
        members: indices of the members that make up the ensemble, such as `model.elites`; None means all.
        max_rows: transitions that the model is asked about at a time; fewer take less memory.
    """
    parts = []
    for first in range(0, len(batch), max_rows):
        rows = batch[first : first + max_rows]
        forecast = from_prediction(model.predict(rows.state, rows.context, rows.action), members)
        epistemic_var = forecast.moments()[0].var(dim=-2, correction=0)
        mean, var = forecast.pooled().moments()
        squares = epistemic_var, var, (mean - rows.next_state).square()
        parts.append([reduce((x / unit.square())[:, dims], "n s -> n", "mean").sqrt() for x in squares])
    return Doubts(*map(torch.cat, zip(*parts, strict=True)))
