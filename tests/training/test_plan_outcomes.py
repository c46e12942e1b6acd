"""What plans promised against what they got: what is compared, and what is not."""

import pytest
import torch

from layeredrl.training.collector import Episode
from layeredrl.training.plan_outcomes import plan_outcomes, realised_returns


def make_episode(length: int = 6, *, terminated: bool = False, **info) -> Episode:
    """Rewards 1, 2, 3 …"""
    reward = torch.arange(1.0, length + 1)
    info = {name: torch.as_tensor(values, dtype=torch.float32) for name, values in info.items()}
    return Episode(0, torch.zeros(length + 1, 2), torch.zeros(length, 1), reward, terminated=terminated, info=info)


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("horizon", [1, 3, 8, 20])
def test_realised_returns_equal_a_plain_loop(horizon, discount):
    reward = torch.randn(8)
    expected = [
        sum(discount**k * reward[t + k].item() for k in range(horizon) if t + k < len(reward))
        for t in range(len(reward))
    ]
    assert realised_returns(reward, horizon, discount).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_gap_is_what_was_promised_but_not_earned():
    outcomes = plan_outcomes(make_episode(value=[10.0] * 6, terminated=True), horizon=2)
    assert outcomes.promised.tolist() == [10] * 6
    assert outcomes.realised.tolist() == [3, 5, 7, 9, 11, 6]  # nothing comes after the end
    assert outcomes.gap.tolist() == [7, 5, 3, 1, -1, 4]


def test_plans_that_a_time_limit_cut_short_are_not_compared():
    outcomes = plan_outcomes(make_episode(value=range(6)), horizon=3, discount=0.5)
    assert outcomes.promised.tolist() == [0, 1, 2, 3]
    assert outcomes.realised.tolist() == [r + (r + 1) / 2 + (r + 2) / 4 for r in (1, 2, 3, 4)]


@pytest.mark.parametrize("length", [1, 2])
def test_an_episode_shorter_than_the_horizon_leaves_nothing_to_compare(length):
    assert len(plan_outcomes(make_episode(length, value=range(length)), horizon=3)) == 0


def test_an_episode_that_was_not_planned_has_no_plans():
    assert len(plan_outcomes(make_episode(terminated=True), horizon=3)) == 0


def test_a_terminal_value_counts_where_the_plan_really_ended():
    """Plans of two steps: the value of the state that the third step started from."""
    episode = make_episode(value=[0.0] * 6, terminal_value=[100, 200, 300, 400, 500, 600])
    outcomes = plan_outcomes(episode, horizon=2, discount=0.5)
    rewards = [1 + 2 / 2, 2 + 3 / 2, 3 + 4 / 2, 4 + 5 / 2]
    # The plan of the fifth step ended in the last state, of which nobody said what it is worth.
    assert outcomes.realised.tolist() == [r + v / 4 for r, v in zip(rewards, (300, 400, 500, 600), strict=True)]


def test_after_an_end_nothing_has_a_value():
    episode = make_episode(3, value=[0.0] * 3, terminal_value=[100, 200, 300], terminated=True)
    assert plan_outcomes(episode, horizon=2).realised.tolist() == [1 + 2 + 300, 2 + 3, 3]


def test_a_plan_that_is_executed_for_several_steps_counts_once():
    episode = make_episode(value=[10, 10, 20, 20, 30, 30], plan_age=[0, 1, 0, 1, 0, 1])
    outcomes = plan_outcomes(episode, horizon=3)
    assert outcomes.promised.tolist() == [10, 20]
    assert outcomes.realised.tolist() == [6, 12]
