"""Draws of any space: against torch.distributions, counts and loops."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from torch.distributions import Categorical, Normal

from layeredrl.planners.search_space import SearchSpace
from layeredrl.spaces import features

CPU = torch.device("cpu")
BOX = Box(np.array([-1.0, 0.0], dtype=np.float32), np.array([1.0, 10.0], dtype=np.float32))
MIXED = Dict({"a": MultiDiscrete([2, 4], start=[3, -1]), "b": BOX, "c": Discrete(3)})
# Rows of MIXED: two choices, two numbers, a choice. Features: 2 + 4, 2, 3.
N = 50_000


def make(space=BOX, initial_std=None) -> SearchSpace:
    return SearchSpace(space, initial_std, CPU)


def draw(space: SearchSpace, mean, std, sampling="clipped"):
    """Many rows `(N, R)` from one distribution."""
    noise = torch.randn(1, N, 1, space.row_size, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.as_tensor(x).expand(1, 1, space.feature_size) for x in (mean, std))
    return space.decode(mean, std, noise, sampling)[0, :, 0]


def test_nothing_known_means_the_middle_a_quarter_and_even_odds():
    space = make(MIXED)
    expected = [0.5] * 2 + [0.25] * 4 + [0.0, 5.0] + [1 / 3] * 3
    torch.testing.assert_close(space.initial_mean, torch.tensor(expected))
    assert space.initial_std[space.number_features].tolist() == [0.5, 2.5]
    assert space.number_features.tolist() == [6, 7]
    assert space.numbers.tolist() == [2, 3]


def test_clipped_draws_are_a_gaussian_with_mass_at_the_bounds():
    space = make()
    rows = draw(space, [0.5, 5.0], [0.5, 1.0])
    law = Normal(0.5, 0.5)
    assert ((rows[:, 0] == 1.0).float().mean() - (1 - law.cdf(torch.tensor(1.0)))).abs() < 0.01
    inside = rows[(rows[:, 0] > -1) & (rows[:, 0] < 1), 0]
    for x in (-0.5, 0.0, 0.5):
        share = (inside < x).float().mean()
        cdf = law.cdf(torch.tensor([x, -1.0, 1.0]))
        assert (share - (cdf[0] - cdf[1]) / (cdf[2] - cdf[1])).abs() < 0.01
    assert (rows[:, 1].mean() - 5.0).abs() < 0.02
    assert (rows[:, 1].std() - 1.0).abs() < 0.02


def test_truncated_draws_stop_at_two_deviations_which_end_at_the_nearer_bound():
    rows = draw(make(), [0.5, 5.0], [0.5, 1.0], "truncated")
    for column, std in ((0, 0.25), (1, 1.0)):  # 0.5 is too wide beside the bound at 1
        x = (rows[:, column] - (0.5, 5.0)[column]) / std
        assert x.abs().max() <= 2.0 + 1e-5
        total = Normal(0.0, 1.0).cdf(torch.tensor(2.0)) * 2 - 1
        for level in (-1.0, 0.3, 1.5):
            cdf = Normal(0.0, 1.0).cdf(torch.tensor([level, -2.0]))
            assert ((x < level).float().mean() - (cdf[0] - cdf[1]) / total).abs() < 0.01


def test_a_mean_at_the_bound_leaves_no_room_for_truncated_draws():
    rows = draw(make(), [1.0, 5.0], [0.5, 1.0], "truncated")
    assert (rows[:, 0] == 1.0).all()


def test_uniform_draws_span_two_deviations():
    rows = draw(make(), [0.0, 5.0], [0.5, 1.0], "uniform")
    assert torch.histc(rows[:, 0], 4, -1.0, 1.0).div(N).sub(0.25).abs().max() < 0.01
    assert torch.histc(rows[:, 1], 4, 3.0, 7.0).div(N).sub(0.25).abs().max() < 0.01


def test_choices_are_drawn_with_their_probabilities():
    space = make(MIXED)
    probabilities = [0.9, 0.1], [0.1, 0.0, 0.7, 0.2], [0.25, 0.25, 0.5]
    mean = torch.tensor([*probabilities[0], *probabilities[1], 0.0, 5.0, *probabilities[2]])
    rows = draw(space, mean, space.initial_std)
    for column, start, p in zip((0, 1, 4), (3, -1, 0), probabilities, strict=True):
        share = torch.stack([(rows[:, column] == start + c).float().mean() for c in range(len(p))])
        torch.testing.assert_close(share, Categorical(probs=torch.tensor(p)).probs, rtol=0, atol=0.01)
        assert share.sum() == 1


@pytest.mark.parametrize("noise", [-40.0, 40.0])
def test_extreme_noise_stays_inside(noise):
    space = make(MIXED)
    mean = torch.tensor([0.4999999, 0.4999999, *[0.2499999] * 4, 0.0, 5.0, *[0.3333] * 3])
    rows = space.decode(mean.expand(1, 1, -1), space.initial_std.expand(1, 1, -1), torch.full((1, 1, 1, 5), noise))
    assert rows.flatten().tolist() == ([3, -1, -1, 0, 0] if noise < 0 else [4, 2, 1, 10, 2])


def test_the_mode_is_the_mean_of_numbers_and_the_likeliest_category():
    space = make(MIXED)
    mean = torch.tensor([0.4, 0.6, 0.1, 0.1, 0.7, 0.1, 0.3, 9.0, 0.2, 0.5, 0.3])
    torch.testing.assert_close(space.mode(mean.expand(1, 1, -1)).flatten(), torch.tensor([4, 1, 0.3, 9.0, 1]))
    assert make(Discrete(3, start=5)).mode(torch.tensor([[[0.1, 0.2, 0.7]]])).tolist() == [[[[7]]]]


def test_rows_of_a_discrete_space_are_integers():
    for discrete in (Discrete(3), MultiDiscrete([2, 3]), Tuple([Discrete(2), Discrete(3)])):
        space = make(discrete)
        rows = draw(space, space.initial_mean, space.initial_std)
        assert rows.dtype == torch.long


@pytest.mark.parametrize("action_space", [BOX, Discrete(3, start=2), MIXED], ids=["box", "discrete", "mixed"])
def test_fit_is_the_weighted_mean_and_std_of_the_features(action_space):
    space = make(action_space)
    rows = draw(space, space.initial_mean, space.initial_std)[:24].reshape(2, 6, 2, -1)
    weights = torch.softmax(torch.randn(2, 6), dim=1)
    mean, std = space.fit(rows, weights)
    x = features(action_space, rows)
    for v, h in np.ndindex(2, 2):
        expected = sum(w * row for w, row in zip(weights[v], x[v, :, h], strict=True))
        var = sum(w * (row - expected) ** 2 for w, row in zip(weights[v], x[v, :, h], strict=True))
        torch.testing.assert_close(mean[v, h], expected)
        torch.testing.assert_close(std[v, h], var.sqrt())


def test_spread_evens_the_odds_and_leaves_numbers_alone():
    space = make(MIXED)
    mean = torch.tensor([1.0, 0.0, 0, 0, 1.0, 0, 0.3, 9.0, 0, 0, 1.0]).expand(1, 1, -1)
    spread = space.spread(mean, 0.4)[0, 0]
    expected = torch.tensor([0.8, 0.2, 0.1, 0.1, 0.7, 0.1, 0.3, 9.0, 0.4 / 3, 0.4 / 3, 0.6 + 0.4 / 3])
    torch.testing.assert_close(spread, expected)


def test_a_space_that_no_planner_serves_is_named():
    for space in (MultiBinary(3), Dict({"a": MultiBinary(2), "b": BOX})):
        with pytest.raises(
            TypeError, match=r"action_space: got a MultiBinary in .*, expected Box, Discrete, Multi"
        ):
            make(space)
