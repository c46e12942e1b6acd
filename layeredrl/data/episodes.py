"""Transitions in the order of time, told apart by episode."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from layeredrl.types import Batch


def episode_numbers(batch: Batch) -> Int[Tensor, " B"]:
    """Which episode each transition belongs to, counted from 0.

    A transition goes on with the episode of the one before it if that didn't end it, led exactly to the state in
    which this one starts, and had the same context. So a gap in the record, or a missing `truncated`, begins
    another episode.

    Args:
        batch: transitions `(B,)` in the order of time, one environment's after another's.
    """
    ended = batch.terminated.bool() if batch.truncated is None else batch.terminated.bool() | batch.truncated.bool()
    goes_on = ~ended[:-1] & (batch.next_state[:-1] == batch.state[1:]).all(dim=-1)
    if batch.context is not None:
        goes_on &= (batch.context[:-1] == batch.context[1:]).all(dim=-1)
    return torch.cat([goes_on.new_zeros(min(1, len(batch))), ~goes_on]).cumsum(dim=0)


def split_episodes(batch: Batch, share: float, *, generator: torch.Generator | None = None) -> tuple[Batch, Batch]:
    """Two sets of whole episodes, so that nothing in the second is known from its neighbours in the first.

    The episodes of the second set are drawn at random, until they hold `share` of the transitions; at least one is
    left for the first. If there is only one episode, it is cut in two, and the second set has its end.

    Args:
        batch: transitions `(B,)` in the order of time, at least two. So are both parts.
        share: of the transitions, for the second set.
        generator: source of the randomness.
    """
    if not 0 < share < 1:
        raise ValueError(f"share: got {share}, expected a number between 0 and 1")
    if len(batch.shape) != 1 or len(batch) < 2:
        raise ValueError(
            f"batch: got leading dims {tuple(batch.shape)}, expected (B,) with at least two transitions"
        )
    number = episode_numbers(batch)
    length = number.bincount()
    if len(length) == 1:
        n = min(max(1, round(share * len(batch))), len(batch) - 1)
        return batch[:-n], batch[-n:]
    order = torch.randperm(len(length), generator=generator).to(length.device)
    so_far = length[order].cumsum(dim=0)
    n_episodes = min(int((so_far < share * len(batch)).sum()) + 1, len(length) - 1)
    is_second = torch.isin(number, order[:n_episodes])
    return batch[~is_second], batch[is_second]


def concatenate(batches: Sequence[Batch]) -> Batch:
    """One batch after another, with the fields that all of them have."""
    joined: dict[str, Any] = {"context": None}
    for name in dict(batches[0].items()):
        parts = [getattr(batch, name) for batch in batches]
        if all(part is not None for part in parts):
            joined[name] = torch.cat(parts)
    return Batch(**joined)
