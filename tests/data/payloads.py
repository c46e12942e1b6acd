"""Transitions that say themselves where they come from."""

import math

import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from torch import Tensor

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.types import Batch

STATE = Box(-math.inf, math.inf, (2,))
CONTEXTS = {
    "none": None,
    "Box": Box(-5, 5, (2, 2)),
    "Discrete": Discrete(3, start=1),
    "Tuple": Tuple([MultiBinary(2), Discrete(5)]),
}
ACTIONS = {
    "Box": Box(-1, 1, (1,)),
    "Discrete": Discrete(4, start=-1),
    "Dict": Dict({"gear": Discrete(4, start=1), "valves": MultiDiscrete([2, 3]), "throttle": Box(-1, 1, (2,))}),
}


def make_buffer(capacity: int = 6, context: str = "Box", action: str = "Box", **more) -> ReplayBuffer:
    return ReplayBuffer(STATE, CONTEXTS[context], ACTIONS[action], capacity, **more)


def value_of(space: Space, ident: Tensor) -> Tensor:
    """Rows of a space that differ from one transition to the next."""
    if isinstance(space, Dict | Tuple):
        parts = [space[key] for key in sorted(space)] if isinstance(space, Dict) else space
        return torch.cat([value_of(part, ident) for part in parts], dim=1)
    if isinstance(space, Discrete):
        return (ident.long() % int(space.n) + int(space.start))[:, None]
    if isinstance(space, MultiDiscrete):
        return ident.long()[:, None] % torch.tensor(space.nvec)
    if isinstance(space, MultiBinary):
        return ident.long()[:, None].expand(-1, int(space.n)) % 2
    return torch.sin(ident)[:, None].expand(-1, math.prod(space.shape)).clone()


def transitions(ident: Tensor, context: str = "Box", action: str = "Box") -> Batch:
    """Transitions whose every field follows from `ident`."""
    ident = ident.float()
    return Batch(
        state=torch.stack([ident, -ident], dim=1),
        context=None if context == "none" else value_of(CONTEXTS[context], ident),
        action=value_of(ACTIONS[action], ident),
        next_state=torch.stack([ident + 1, -ident], dim=1),
        terminated=ident % 3 == 0,
        reward=ident / 4,
        truncated=ident % 2 == 0,
    )


def assert_same(got: Batch, expected: Batch) -> None:
    assert dict(got.items()).keys() == dict(expected.items()).keys()
    for (name, x), (_, y) in zip(got.items(), expected.items(), strict=True):
        assert x.dtype == y.dtype, name
        assert torch.equal(x, y), name


def content(buffer: ReplayBuffer) -> dict[str, Tensor]:
    state = buffer.state_dict()
    return {"n_added": torch.tensor(state["n_added"]), **state["columns"]}


def assert_refused(buffer: ReplayBuffer, error: type[Exception], message: str, change) -> None:
    """`change(buffer)` raises, and the buffer is bit for bit what it was."""
    before = content(buffer)
    with pytest.raises(error, match=message):
        change(buffer)
    after = content(buffer)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
