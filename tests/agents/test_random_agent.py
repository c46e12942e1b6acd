"""RandomAgent: uniform over the whole space and nothing else."""

import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from layeredrl.agents.random_agent import RandomAgent

NESTED = Dict({"b": Box(2.0, 3.0, (2,)), "a": Tuple([Discrete(3, start=5), MultiDiscrete([2, 4]), MultiBinary(1)])})
BOX = Box(torch.tensor([-1.0, 0.5]).numpy(), torch.tensor([3.0, 0.75]).numpy())
HALF = Box(0.0, torch.inf, (2,))
N = 40_000


def chi_square(counts: torch.Tensor) -> float:
    """Of equal expectations; its mean is the number of bins less one."""
    expected = counts.sum() / len(counts)
    return ((counts - expected).square() / expected).sum().item()


def test_box_actions_are_uniform_in_every_dimension():
    actions, _ = RandomAgent(BOX).act(torch.zeros(N, 3))
    assert actions.shape == (N, 2)
    unit = (actions - torch.tensor([-1.0, 0.5])) / torch.tensor([4.0, 0.25])
    assert unit.min() >= 0
    assert unit.max() <= 1
    for dim in range(2):
        assert chi_square(torch.histc(unit[:, dim], bins=20, min=0, max=1)) < 44  # 0.999 quantile
    assert torch.corrcoef(unit.T)[0, 1].abs() < 4 / N**0.5


def test_discrete_actions_are_uniform_from_their_start():
    actions, _ = RandomAgent(Discrete(5, start=-2)).act(torch.zeros(N, 3))
    assert actions.shape == (N, 1)
    assert not actions.is_floating_point()
    assert actions.unique().tolist() == [-2, -1, 0, 1, 2]
    assert chi_square((actions + 2).flatten().bincount().float()) < 18.5  # 0.999 quantile


def test_nested_actions_are_uniform_in_every_discrete_column():
    actions, _ = RandomAgent(NESTED).act(torch.zeros(N, 3))
    assert actions.shape == (N, 6)
    for column, values in enumerate([[5, 6, 7], [0, 1], [0, 1, 2, 3], [0, 1]]):
        found, counts = actions[:, column].unique(return_counts=True)
        assert found.tolist() == values
        assert chi_square(counts.float()) < 16.3  # 0.999 quantile for four values
    assert chi_square(torch.histc(actions[:, 5], bins=20, min=2, max=3)) < 44


def test_actions_of_an_integer_box_are_whole_and_reach_both_bounds():
    actions, _ = RandomAgent(Box(0, 3, (1,), dtype=int)).act(torch.zeros(N, 1))
    assert actions.unique().tolist() == [0, 1, 2, 3]


def test_box_of_any_shape_gives_flat_rows():
    assert RandomAgent(Box(-1.0, 1.0, (2, 3))).act(torch.zeros(4, 1))[0].shape == (4, 6)


@pytest.mark.parametrize("bounds", [(-0.1, 0.3), (-1.0, 3.0), (0.7, 0.8), (-3e38, 3e38)])
def test_the_largest_draw_stays_inside_the_bounds(monkeypatch, bounds):
    """Neither rounding nor overflow leads out of the box."""
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, 1 - 2**-24))
    space = Box(*bounds, (1,))
    assert space.contains(RandomAgent(space).act(torch.zeros(1, 1))[0][0].numpy())


@pytest.mark.parametrize("space", [BOX, Discrete(100), NESTED])
def test_the_generator_decides_and_spares_the_global_one(space):
    before = torch.get_rng_state()
    draws = [
        RandomAgent(space, generator=torch.Generator().manual_seed(seed)).act(torch.zeros(8, 1))[0]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_number_of_environments_may_change_and_reset_does_nothing():
    agent = RandomAgent(BOX)
    assert len(agent.act(torch.zeros(3, 1))[0]) == 3
    agent.reset(torch.tensor([True, False, True]))
    agent.reset()
    assert len(agent.act(torch.zeros(5, 1))[0]) == 5


@pytest.mark.parametrize("space", [HALF, Box(-torch.inf, torch.inf, (2,)), Dict({"a": Tuple([BOX, HALF])})])
def test_a_box_without_finite_bounds_is_refused(space):
    with pytest.raises(ValueError, match=r"action_space: got .*, expected finite bounds"):
        RandomAgent(space)


def test_a_space_that_is_not_supported_is_refused(unchecked):
    with pytest.raises(TypeError, match=r"action_space: got Text.*, expected a gymnasium Box, Discrete"):
        RandomAgent(Text(3))
