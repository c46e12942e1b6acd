"""Spaces of every kind for hypothesis, and their values as gymnasium makes them."""

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.spaces import flatten as one_hot_code
from gymnasium.vector.utils import concatenate, create_empty_array
from hypothesis import strategies as st

MATRIX = MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 1], [-1, 2]]))
SHAPES = st.sampled_from([(), (1,), (3,), (2, 3), (2, 1, 2)])
BOXES = st.one_of(
    st.builds(Box, st.just(0), st.integers(1, 200), SHAPES, st.sampled_from([np.float32, np.float64, np.int64])),
    st.builds(Box, st.just(-2.5), st.floats(-2.0, 3.0, width=32), SHAPES),
    st.just(Box(0, 255, (2, 2), dtype=np.uint8)),
)
DISCRETE_LEAVES = st.one_of(
    st.builds(lambda n, start: Discrete(n, start=start), st.integers(1, 6), st.integers(-5, 5)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(MultiDiscrete),
    st.just(MATRIX),
    st.sampled_from([MultiBinary(1), MultiBinary(3), MultiBinary((2, 2))]),
)
LEAVES = BOXES | DISCRETE_LEAVES


def nested_in(leaves: st.SearchStrategy[Space]) -> st.SearchStrategy[Space]:
    """The leaves, and Tuples and Dicts of them, nested at will."""
    return st.recursive(
        leaves,
        lambda parts: st.one_of(
            st.lists(parts, min_size=1, max_size=3).map(Tuple),
            st.dictionaries(st.sampled_from("cab"), parts, min_size=1).map(Dict),
        ),
        max_leaves=5,
    )


SPACES = nested_in(LEAVES)
DISCRETE_SPACES = nested_in(DISCRETE_LEAVES)


def values_of(space: Space, n: int, seed: int = 0) -> list[Any]:
    space.seed(seed)
    return [space.sample() for _ in range(n)]


def batch_of(space: Space, values: list[Any]) -> Any:
    """The values as a vector environment gives them."""
    return concatenate(space, values, create_empty_array(space, len(values)))


def numbers_of(space: Space, value: Any) -> list[float]:
    """A value's row, number by number."""
    if isinstance(space, Dict):
        return [number for key in sorted(space.spaces) for number in numbers_of(space[key], value[key])]
    if isinstance(space, Tuple):
        return [number for i, part in enumerate(space.spaces) for number in numbers_of(part, value[i])]
    return np.asarray(value, dtype=np.float64).flatten().tolist()


def code_of(space: Space, value: Any) -> torch.Tensor:
    """A value's features: gymnasium's own code of each leaf, in our order."""
    if isinstance(space, Dict):
        return torch.cat([code_of(space[key], value[key]) for key in sorted(space.spaces)])
    if isinstance(space, Tuple):
        return torch.cat([code_of(part, value[i]) for i, part in enumerate(space.spaces)])
    return torch.as_tensor(np.asarray(one_hot_code(space, value), dtype=np.float32)).flatten()


def discrete_columns(space: Space) -> list[bool]:
    """For each column of a row, whether it holds a discrete number."""
    if isinstance(space, Dict):
        return [flag for key in sorted(space.spaces) for flag in discrete_columns(space[key])]
    if isinstance(space, Tuple):
        return [flag for part in space.spaces for flag in discrete_columns(part)]
    return [not isinstance(space, Box)] * int(np.prod(space.shape))
