"""Random shooting: the planner contract, uniform draws, and the plan of the last step."""

import torch
from gymnasium.spaces import Box

from layeredrl.planners.random_shooting import RandomShooting
from tests.contracts.planner_contract import PlannerContract, Recorder, closeness

BOX = Box(-1.0, 3.0, (1,))


class TestRandomShootingObeysTheContract(PlannerContract):
    spread = 2 / 3**0.5  # of a uniform distribution over two standard deviations to either side

    def make(self, action_space, horizon=4, **settings):
        return RandomShooting(action_space, **{"horizon": horizon, "n_candidates": 100, **settings})


def test_draws_are_uniform_over_the_bounds():
    planner = RandomShooting(BOX, 4, n_candidates=10_000)
    objective = Recorder(lambda plans: plans.sum(dim=(2, 3)))
    planner.plan(objective, planner.init(1))
    counts = torch.histc(objective.asked[0][0, :-1], bins=8, min=-1.0, max=3.0) / 40_000
    torch.testing.assert_close(counts, torch.full((8,), 1 / 8), rtol=0.05, atol=0.0)


def test_the_best_candidate_is_returned():
    planner = RandomShooting(BOX, 4)
    target = torch.rand(4, 1)
    objective = Recorder(closeness(target))
    plan = planner.plan(objective, planner.init(2))
    values = closeness(target)(objective.asked[0])
    assert torch.equal(plan.value, values.max(dim=1).values)
    assert torch.equal(plan.actions, objective.asked[0][torch.arange(2), values.argmax(dim=1)])


def test_a_good_plan_is_not_lost_in_the_next_step():
    planner, target = RandomShooting(BOX, 4), torch.rand(4, 1)
    plan = planner.plan(closeness(target), planner.init(1))
    objective = Recorder(closeness(target.roll(-1, 0)))
    planner.plan(objective, planner.shift(plan.state))
    last = torch.cat([plan.actions[:, 1:], torch.ones(1, 1, 1)], dim=1)  # the middle of the bounds
    assert (objective.asked[0] == last.unsqueeze(1)).all(dim=(2, 3)).any()
