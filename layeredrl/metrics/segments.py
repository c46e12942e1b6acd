"""Recorded transitions, cut into windows of consecutive steps."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Num
from torch import Tensor

from layeredrl.types import Batch


@dataclass(frozen=True)
class Segments:
    """W windows of H consecutive steps, and the T = H + 1 states that they connect.

    Attributes:
        context: of all steps of a window, or None where there is none.
    """

    state: Float[Tensor, "W T S"]
    context: Num[Tensor, "W C"] | None
    action: Num[Tensor, "W H A"]

    def __post_init__(self) -> None:
        n_windows, horizon = self.action.shape[:2]
        if self.state.shape[:2] != (n_windows, horizon + 1):
            raise ValueError(
                f"Segments.state: got shape {tuple(self.state.shape)}, expected ({n_windows}, {horizon + 1}, S), "
                f"one state more than actions {tuple(self.action.shape)}"
            )

    def __len__(self) -> int:
        return len(self.state)

    @property
    def horizon(self) -> int:
        return self.action.shape[1]


def cut_segments(batch: Batch, horizon: int, *, stride: int | None = None) -> Segments:
    """Windows of `horizon` steps that follow one another.

    A step follows the one before if that didn't end its episode, led exactly to the state in which the step starts,
    and had the same context. So a gap in the record, or a missing `truncated`, never puts a jump into a window.

    Args:
        batch: transitions `(B,)` in the order of time, one environment's after another's.
        horizon: steps H of a window.
        stride: steps between the starts of windows within an episode; None: `horizon`, so that none overlap.

    Raises:
        ValueError: no transitions, a value that isn't finite, or no episode as long as the horizon.
    """
    stride = horizon if stride is None else stride
    for name, value in (("horizon", horizon), ("stride", stride)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1")
    check_leading(batch)
    batch.check_finite()
    starts_anew = torch.cat([torch.ones_like(batch.state[:1, 0], dtype=torch.bool), ~_follows(batch)])
    stretch = starts_anew.cumsum(dim=0) - 1
    length = stretch.bincount()
    if horizon > int(length.max()):
        raise ValueError(
            f"horizon: got {horizon}, expected at most {int(length.max())}, the length of the longest episode: of "
            "steps in a row that each start in the state, and with the context, that the one before led to"
        )
    step = torch.arange(len(batch), device=batch.state.device)
    position = step - starts_anew.nonzero().squeeze(-1)[stretch]
    first = step[(position % stride == 0) & (position + horizon <= length[stretch])]
    window = rearrange(first, "w -> w 1") + torch.arange(horizon, device=first.device)
    return Segments(
        state=torch.cat([batch.state[window], batch.next_state[window[:, -1:]]], dim=1),
        context=None if batch.context is None else batch.context[first],
        action=batch.action[window],
    )


def check_leading(batch: Batch) -> None:
    """Refuse a batch unless its leading dims are `(B,)`, with at least one transition."""
    if len(batch.shape) != 1 or len(batch) == 0:
        raise ValueError(
            f"batch: got leading dims {tuple(batch.shape)}, expected (B,) with at least one transition"
        )


def _follows(batch: Batch) -> Bool[Tensor, " pairs"]:
    """Whether each transition but the first continues the one before it."""
    ended = batch.terminated.bool() if batch.truncated is None else batch.terminated.bool() | batch.truncated.bool()
    follows = ~ended[:-1] & (batch.next_state[:-1] == batch.state[1:]).all(dim=-1)
    if batch.context is not None:
        follows &= (batch.context[:-1] == batch.context[1:]).all(dim=-1)
    return follows
