"""MPCAgent: when it plans, for which environments, from where, and which actions of which plan it executes."""

import pytest
import torch
from einops import repeat
from gymnasium.spaces import Box

from layeredrl.agents.mpc_agent import MPCAgent
from layeredrl.planners.cem import CEM
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.planner import Plan, Planner
from tests.models.ensembles import CONTEXT, make_fixed

SPACE = Box(0.0, 100.0, (1,))
H = 6


class Scripted(Planner):
    """Makes plans that tell which search they are from: the n-th gives the action n + d / 10 in decision d."""

    def __init__(self, **settings):
        super().__init__(SPACE, H, n_candidates=1, n_iterations=1, **settings)
        self.states = []

    def search(self, objective, state, noise, proposals=None):
        self.states.append(state)
        n = float(len(self.states))
        actions = repeat(n + torch.arange(self.n_decisions) / 10, "d -> v d 1", v=len(state))
        value = torch.full((len(state),), n)
        return Plan(actions, value, state.advanced(actions), {"search": value})


class Recorded(ModelObjective):
    """Remembers the states and contexts of environments that were planned for."""

    def __init__(self, context_space=None):
        model = make_fixed({"offset": 0.0, "std": 0.1}, context_space=context_space, action_space=SPACE)
        super().__init__(model, lambda s, c, a, n: a[..., 0])
        self.asked = []

    def __call__(self, state, context=None, *, generator=None):
        self.asked.append((state[:, 0].tolist(), None if context is None else context[:, 0].tolist()))
        return super().__call__(state, context, generator=generator)


def make_agent(replan_every=None, action_repeat=1, context_space=None, **more):
    planner = Scripted(action_repeat=action_repeat)
    return MPCAgent(planner, Recorded(context_space), replan_every=replan_every, **more)


def names(n_envs, step=0):
    """A state for each environment that tells whose it is, and when."""
    return (torch.arange(float(n_envs)) + 10 * step)[:, None].expand(n_envs, 3)


def run(agent, n_steps, n_envs=3, resets=()):
    """Actions of all steps; `resets` maps steps to the environments that are new then."""
    actions = []
    for step in range(n_steps):
        if step in resets:
            agent.reset(torch.isin(torch.arange(n_envs), torch.tensor(resets[step])))
        actions.append(agent.act(names(n_envs, step))[0][:, 0])
    return torch.stack(actions)


def asked(agent):
    return [states for states, _ in agent.objective.asked]


def test_a_plan_serves_for_as_many_steps_as_wanted():
    agent = make_agent(replan_every=3)
    actions = run(agent, 7, n_envs=2)
    torch.testing.assert_close(actions[:, 0], torch.tensor([1.0, 1.1, 1.2, 2.0, 2.1, 2.2, 3.0]))
    assert torch.equal(actions[:, 0], actions[:, 1])
    assert asked(agent) == [[0, 1], [30, 31], [60, 61]]


def test_every_step_is_planned_anew_unless_said_otherwise():
    agent = make_agent()
    torch.testing.assert_close(run(agent, 4)[:, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]))


def test_environments_that_are_reset_are_planned_for_alone_and_out_of_step():
    agent = make_agent(replan_every=3)
    actions = run(agent, 7, resets={2: [1]})
    expected = [
        [1.0, 1.0, 1.0],
        [1.1, 1.1, 1.1],
        [1.2, 2.0, 1.2],  # environment 1 is new
        [3.0, 2.1, 3.0],
        [3.1, 2.2, 3.1],
        [3.2, 4.0, 3.2],
        [5.0, 4.1, 5.0],
    ]
    torch.testing.assert_close(actions, torch.tensor(expected))
    assert asked(agent) == [[0, 1, 2], [21], [30, 32], [51], [60, 62]]


def test_figures_are_those_of_the_plan_that_is_executed():
    agent = make_agent(replan_every=2)
    agent.act(names(3))
    agent.reset(torch.tensor([False, False, True]))
    action, info = agent.act(names(3))
    torch.testing.assert_close(action[:, 0], torch.tensor([1.1, 1.1, 2.0]))
    assert info["value"].tolist() == info["search"].tolist() == [1.0, 1.0, 2.0]
    assert info["plan_age"].tolist() == [1.0, 1.0, 0.0]


def test_searches_start_from_what_is_left_of_the_last_plan():
    agent = make_agent(replan_every=2)
    run(agent, 4, n_envs=2, resets={1: [1]})
    first, of_the_new, of_the_old, of_the_new_later = agent.planner.states
    fresh = agent.planner.init(1)
    assert torch.equal(first.mean, agent.planner.init(2).mean)
    assert torch.equal(of_the_new.mean, fresh.mean)
    assert of_the_new.n_open.tolist() == [H]
    for state, left in ((of_the_old, [1.2, 1.3, 1.4, 1.5]), (of_the_new_later, [2.2, 2.3, 2.4, 2.5])):
        torch.testing.assert_close(state.mean[0, :4, 0], torch.tensor(left))
        assert torch.equal(state.mean[:, 4:], fresh.mean[:, 4:])
        assert state.n_open.tolist() == [2]


def test_a_reset_between_due_steps_leaves_the_others_plans_alone():
    agent = make_agent(replan_every=H)
    run(agent, 2)
    before = agent.plan.actions.clone(), agent.state.mean.clone()
    agent.reset(torch.tensor([True, False, False]))
    agent.act(names(3))
    assert torch.equal(agent.plan.actions[1:], before[0][1:])
    assert torch.equal(agent.state.mean[1:], before[1][1:])
    assert not torch.equal(agent.plan.actions[:1], before[0][:1])


def test_contexts_go_with_their_environments():
    agent = make_agent(replan_every=2, context_space=CONTEXT)
    contexts = torch.tensor([[0.1, 0.0], [0.2, 0.0], [0.3, 0.0]])
    agent.act(names(3), contexts)
    agent.reset(torch.tensor([False, True, False]))
    agent.act(names(3), contexts)
    agent.act(names(3), contexts)
    assert [c for _, c in agent.objective.asked] == [
        pytest.approx(expected) for expected in ([0.1, 0.2, 0.3], [0.2], [0.1, 0.3])
    ]


@pytest.mark.parametrize(
    ("replan_every", "expected"), [(None, [1.0, 1.0, 2.0, 2.0, 3.0]), (4, [1.0, 1.0, 1.1, 1.1, 2.0])]
)
def test_decisions_that_are_held_are_executed_to_their_end(replan_every, expected):
    agent = make_agent(replan_every, action_repeat=2)
    torch.testing.assert_close(run(agent, 5)[:, 0], torch.tensor(expected))
    later = agent.planner.states[1]
    assert later.mean.shape[1] == 3
    torch.testing.assert_close(later.mean[0, 0, 0], torch.tensor(1.1 if replan_every is None else 1.2))


@pytest.mark.parametrize(
    ("replan_every", "action_repeat"), [(0, 1), (-1, 1), (H + 1, 1), (2.0, 1), (1.5, 1), (1, 2), (3, 2), (H + 2, 2)]
)
def test_plans_cannot_be_executed_in_part_or_beyond_their_end(replan_every, action_repeat, unchecked):
    message = (
        rf"replan_every: got {replan_every}, expected a multiple of action_repeat={action_repeat} up to .* {H}"
    )
    with pytest.raises(ValueError, match=message):
        make_agent(replan_every, action_repeat)


def test_a_search_that_fails_leaves_all_plans_as_they_were(unchecked):
    agent = make_agent(replan_every=2)
    run(agent, 1)
    agent.reset(torch.tensor([False, True, False]))
    with pytest.raises(ValueError, match="proposals: got a state that it doesn't like"):
        refuse(agent)
    torch.testing.assert_close(agent.act(names(3))[0][:, 0], torch.tensor([1.1, 2.0, 1.1]))


def refuse(agent):
    """Act with proposals that fail once."""

    def proposals(state, context, generator):
        raise ValueError("proposals: got a state that it doesn't like")

    agent.proposals = proposals
    try:
        agent.act(names(3))
    finally:
        agent.proposals = None


def test_proposals_are_asked_for_environments_that_are_planned_for():
    seen = []

    def propose(state, context, generator):
        seen.append((state[:, 0].tolist(), context[:, 0].tolist(), generator))
        return torch.zeros(len(state), 2, H, 1)

    generator = torch.Generator()
    agent = make_agent(2, context_space=CONTEXT, proposals=propose, generator=generator)
    contexts = torch.tensor([[0.5, 0.0], [0.25, 0.0]])
    agent.act(names(2), contexts)
    agent.reset(torch.tensor([False, True]))
    agent.act(names(2), contexts)
    assert seen == [([0.0, 1.0], [0.5, 0.25], generator), ([1.0], [0.25], generator)]


def test_a_good_proposal_is_executed():
    """Of a needle in a haystack: the reward knows a single number."""
    model = make_fixed({"offset": 0.0, "std": 0.1}, action_space=SPACE)
    objective = ModelObjective(model, lambda s, c, a, n: (a[..., 0] == 3.14).float())
    good = torch.full((2, 1, H, 1), 3.14)
    agent = MPCAgent(CEM(SPACE, H, n_candidates=20), objective, proposals=lambda s, c, g: good)
    action, info = agent.act(torch.zeros(2, 3))
    assert torch.equal(action, good[:, 0, 0])
    assert info["value"].tolist() == [H, H]


def test_proposals_that_do_not_fit_the_planner_are_refused(unchecked):
    agent = make_agent(proposals=lambda s, c, g: torch.zeros(len(s), 2, H + 1, 1))
    with pytest.raises(ValueError, match=r"proposals: got shape \(3, 2, 7, 1\), expected \(3, 2, 6, 1\)"):
        agent.act(names(3))
    assert agent.plan is None
