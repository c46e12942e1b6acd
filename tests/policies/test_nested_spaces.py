"""What policies know of spaces: plain sizes, and nested tensors that become rows and come back."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from hypothesis import given
from hypothesis import strategies as st
from skrl.utils.spaces.torch import compute_space_size, unflatten_tensorized_space

from layeredrl.policies.nested_spaces import flatten, n_elements, n_features, unflatten
from layeredrl.spaces import leaves
from tests.generated_spaces import MATRIX, SPACES


@given(space=SPACES, leading=st.lists(st.integers(1, 3), max_size=2).map(tuple))
def test_flatten_undoes_unflatten(space: Space[Any], leading: tuple[int, ...]) -> None:
    elements = torch.randn(*leading, n_elements(space))
    assert torch.equal(flatten(space, unflatten(space, elements)), elements)


@given(space=SPACES)
def test_sizes_are_skrls_where_skrl_has_them(space: Space[Any]) -> None:
    if any(isinstance(leaf, MultiBinary) and len(leaf.shape) > 1 for leaf in leaves(space)):
        return
    assert n_features(space) == compute_space_size(space)
    if not any(isinstance(leaf, MultiBinary) or leaf is MATRIX for leaf in leaves(space)):
        assert n_elements(space) == compute_space_size(space, occupied_size=True)


def test_nested_values_are_skrls() -> None:
    space = Dict({"b": Discrete(4), "a": Box(-1, 1, (2, 3)), "c": Tuple([MultiDiscrete([2, 3]), Box(0, 1, ())])})
    elements = torch.arange(20.0).reshape(2, 10)
    ours, theirs = unflatten(space, elements), unflatten_tensorized_space(space, elements)
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["a"], theirs["a"])
    assert torch.equal(ours["b"], theirs["b"])
    assert all(torch.equal(a, b) for a, b in zip(ours["c"], theirs["c"], strict=True))


@pytest.mark.parametrize(("space", "size"), [(None, 0), (3, 3), ((2, 3), 6), ([4], 4), (np.int64(2), 2)])
def test_plain_sizes_and_shapes_count_as_spaces(space: Any, size: int) -> None:
    assert n_features(space) == n_elements(space) == size


@pytest.mark.parametrize("size_of", [n_features, n_elements])
def test_spaces_that_have_no_rows_are_refused(size_of: Any) -> None:
    with pytest.raises(TypeError, match=r"space: got Dict.*, expected a gymnasium Box"):
        size_of(Dict({"a": Text(3)}))
