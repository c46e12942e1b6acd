"""Random rows lie in their space and follow its law."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space, Tuple
from hypothesis import given
from hypothesis import strategies as st

from layeredrl.space_sampling import sample
from layeredrl.spaces import check_rows, row_dtype
from tests.generated_spaces import MATRIX, SPACES

N = 20_000


@given(SPACES, st.lists(st.integers(1, 3), max_size=2).map(tuple))
def test_samples_lie_in_the_space(space: Space, leading: tuple[int, ...]) -> None:
    rows = sample(space, leading, generator=torch.Generator().manual_seed(0))
    assert rows.dtype == row_dtype(space)
    check_rows("rows", rows, space, leading=leading, contained=True)


def test_samples_are_uniform() -> None:
    box = sample(Box(-2.0, 4.0, (1,)), (N,))
    torch.testing.assert_close(box.mean(), torch.tensor(1.0), rtol=0.0, atol=0.05)
    torch.testing.assert_close(box.var(), torch.tensor(3.0), rtol=0.0, atol=0.1)


@pytest.mark.parametrize(
    ("space", "column", "low", "n"),
    [
        (MATRIX, 2, -1, 4),
        (Discrete(3, start=-7), 0, -7, 3),
        (MultiBinary(2), 1, 0, 2),
        (Box(3, 7, (1,), dtype=np.int64), 0, 3, 5),
        (Tuple([Box(0.0, 1.0, (2,)), Discrete(3, start=5)]), 2, 5, 3),
    ],
)
def test_each_whole_number_is_as_probable_as_the_others(space: Space, column: int, low: int, n: int) -> None:
    counts = torch.bincount(sample(space, (N,))[:, column].long() - low)
    torch.testing.assert_close(counts / N, torch.full((n,), 1 / n), rtol=0.0, atol=0.02)


def test_leaves_are_independent() -> None:
    rows = sample(Dict({"a": Box(0.0, 1.0, (2,)), "b": Discrete(2), "c": MultiBinary(2)}), (N,))
    correlations = torch.corrcoef(rows.T) - torch.eye(5)
    assert correlations.abs().max() < 4 / N**0.5


def test_unbounded_boxes_are_sampled_by_gymnasiums_law() -> None:
    low, high = np.array([-np.inf, 1.0, -np.inf, 0.0]), np.array([np.inf, np.inf, 2.0, 1.0])
    drawn = sample(Box(low, high, dtype=np.float64), (N,))
    assert bool((drawn[:, 1] >= 1).all() & (drawn[:, 2] <= 2).all())
    torch.testing.assert_close(drawn.mean(dim=0), torch.tensor([0.0, 2.0, 1.0, 0.5]), rtol=0.0, atol=0.05)
    torch.testing.assert_close(drawn.std(dim=0)[:3], torch.ones(3), rtol=0.0, atol=0.05)


@pytest.mark.parametrize("limits", [(-0.1, 0.3), (0.7, 0.8), (-3e38, 3e38), (0.1, 0.1)])
def test_neither_rounding_nor_overflow_leads_out_of_a_box(limits: tuple[float, float]) -> None:
    space = Box(*limits, (1_000,))
    assert space.contains(sample(space, ()).numpy())


def test_the_generator_decides_and_spares_the_global_one() -> None:
    space, before = Tuple([Box(-np.inf, 1.0, (2,)), Discrete(100), MATRIX]), torch.get_rng_state()
    draws = [sample(space, (5,), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
