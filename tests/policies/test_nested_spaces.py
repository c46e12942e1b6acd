"""Values of nested spaces become tensors and come back."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from hypothesis import given
from hypothesis import strategies as st
from skrl.utils.spaces.torch import compute_space_size, unflatten_tensorized_space

from layeredrl.policies.nested_spaces import encode, flatten, leaves, n_elements, n_features, sample, unflatten

CPU = torch.device("cpu")
MATRIX = MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 1], [-1, 2]]))
flat_spaces = st.one_of(
    st.lists(st.integers(1, 3), max_size=3).map(lambda shape: Box(-2.0, 3.0, tuple(shape))),
    st.builds(Discrete, st.integers(1, 5), start=st.integers(-3, 3)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(MultiDiscrete),
    st.just(MATRIX),
    st.integers(1, 3).map(MultiBinary),
    st.just(Box(0, 255, (2, 2), dtype=np.uint8)),
)
spaces = st.recursive(
    flat_spaces,
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(Tuple),
        st.dictionaries(st.sampled_from("cab"), parts, min_size=1).map(Dict),
    ),
    max_leaves=4,
)
leading_dims = st.lists(st.integers(1, 3), max_size=2).map(tuple)


@given(space=spaces, leading=leading_dims)
def test_flatten_undoes_unflatten(space: Space[Any], leading: tuple[int, ...]) -> None:
    elements = torch.randn(*leading, n_elements(space))
    assert torch.equal(flatten(space, unflatten(space, elements)), elements)


@given(space=spaces)
def test_features_are_gymnasiums_flattening(space: Space[Any]) -> None:
    assert n_features(space) == gymnasium.spaces.flatdim(space)
    elements = sample(space, (1,), device=CPU)
    value = _to_gymnasium(space, unflatten(space, elements))
    assert space.contains(value)
    expected = torch.as_tensor(np.asarray(gymnasium.spaces.flatten(space, value)), dtype=torch.float32)
    torch.testing.assert_close(encode(space, elements)[0].float(), expected)


@given(space=spaces, leading=leading_dims)
def test_samples_lie_in_the_space(space: Space[Any], leading: tuple[int, ...]) -> None:
    elements = sample(space, leading, generator=torch.Generator().manual_seed(0), device=CPU)
    assert elements.shape == (*leading, n_elements(space))
    assert all(
        space.contains(_to_gymnasium(space, unflatten(space, row)))
        for row in elements.reshape(-1, 1, n_elements(space))
    )


@given(space=spaces)
def test_sizes_are_skrls_where_skrl_has_them(space: Space[Any]) -> None:
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


def test_samples_are_uniform() -> None:
    box = sample(Box(-2.0, 4.0, (1,)), (20_000,), device=CPU)
    torch.testing.assert_close(box.mean(), torch.tensor(1.0), rtol=0.0, atol=0.05)
    torch.testing.assert_close(box.var(), torch.tensor(3.0), rtol=0.0, atol=0.1)
    numbers = sample(MATRIX, (20_000,), device=CPU)
    shares = torch.bincount(numbers[:, 2] + 1) / len(numbers)
    torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0.0, atol=0.02)


def test_unbounded_boxes_are_sampled_by_gymnasiums_law() -> None:
    low, high = np.array([-np.inf, 1.0, -np.inf, 0.0]), np.array([np.inf, np.inf, 2.0, 1.0])
    drawn = sample(Box(low, high, dtype=np.float64), (20_000,), device=CPU)
    assert bool((drawn[:, 1] >= 1).all() & (drawn[:, 2] <= 2).all())
    torch.testing.assert_close(drawn.mean(dim=0), torch.tensor([0.0, 2.0, 1.0, 0.5]), rtol=0.0, atol=0.05)
    torch.testing.assert_close(drawn.std(dim=0)[:3], torch.ones(3), rtol=0.0, atol=0.05)


def _to_gymnasium(space: Space[Any], value: Any) -> Any:
    """A value with a batch of one, as gymnasium has it."""
    if isinstance(space, Dict):
        return {key: _to_gymnasium(space.spaces[key], value[key]) for key in space.spaces}
    if isinstance(space, Tuple):
        return tuple(_to_gymnasium(*pair) for pair in zip(space.spaces, value, strict=True))
    if isinstance(space, Discrete):
        return int(value)
    return value[0].numpy().astype(space.dtype)
