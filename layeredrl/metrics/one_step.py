"""How good a model is one step ahead."""

import torch
from einops import reduce
from jaxtyping import Int
from torch import Tensor

from layeredrl.metrics.judging import JudgedRows, judge, summarise
from layeredrl.metrics.marginals import from_prediction
from layeredrl.metrics.quality import ModelQuality
from layeredrl.metrics.segments import check_leading
from layeredrl.models.model import Model
from layeredrl.spaces import check_rows
from layeredrl.types import Batch


@torch.no_grad()
def evaluate_one_step(
    model: Model,
    batch: Batch,
    *,
    members: Int[Tensor, " members"] | None = None,
    max_rows: int = 4096,
) -> ModelQuality:
    """Compare what the model expects of transitions with where they led.

    Args:
        model: answers as it would answer anyone, so within a symmetry-breaking start it is that which is judged.
        batch: transitions `(B,)` that the model hasn't learned from. All count alike, whatever their weights.
        members: indices of the members that make up the ensemble, such as `model.elites`; None means all.
        max_rows: transitions that are judged at a time; fewer take less memory.

    Raises:
        TypeError, ValueError: no transitions, rows that don't fit the model's spaces or aren't finite; or the model
            gave a forecast that isn't finite, or a standard deviation of 0.
    """
    if max_rows < 1:
        raise ValueError(f"max_rows: got {max_rows}, expected at least 1")
    check_leading(batch)
    for name, space, contained in (
        ("state", model.state_space, False),
        ("context", model.context_space, False),
        ("action", model.action_space, True),
        ("next_state", model.state_space, False),
    ):
        check_rows(f"batch.{name}", getattr(batch, name), space, device=model.device, contained=contained)
    parts = [batch[first : first + max_rows] for first in range(0, len(batch), max_rows)]
    return summarise([_judge(model, part, members) for part in parts])


def _judge(model: Model, batch: Batch, members: Int[Tensor, " members"] | None) -> JudgedRows:
    prediction = model.predict(batch.state, batch.context, batch.action)
    if members is not None:
        mean, weights, std, _ = prediction
        prediction = prediction._replace(
            mean=mean[..., members, :, :], weights=weights[..., members, :], std=std[..., members, :, :]
        )
    forecast = from_prediction(prediction, model.noise_shape)
    member_mean, member_var = forecast.moments()
    return judge(
        forecast,
        epistemic_var=member_mean.var(dim=-2, correction=0),
        aleatoric_var=reduce(member_var, "n e s -> n s", "mean"),
        start=batch.state,
        target=batch.next_state,
    )
