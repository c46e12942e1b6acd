"""MPCAgent: a plan for each environment, from where the last one left off."""

import pytest
import torch
from gymnasium.spaces import Box, Discrete

from layeredrl.agents.mpc_agent import MPCAgent
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.planners.cem import CEM
from layeredrl.planners.icem import ICEM
from layeredrl.planners.mppi import MPPI
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.random_shooting import RandomShooting

STATE = Box(-torch.inf, torch.inf, (2,))
BOX = Box(-1.0, 1.0, (1,))
DISCRETE = Discrete(3, start=5)


def follow_state(state, context, action, next_state):
    """The best action is the first number of the state."""
    return -(action[..., 0] - state[..., 0]).square()


def at_once(state, context, action, next_state):
    """Every episode ends after one step, so that only the state that was observed counts."""
    return torch.ones_like(next_state[..., 0], dtype=torch.bool)


def make_model(action_space=BOX, context_space=None):
    def net(*spaces_and_modes):
        return ProbFCDynamics(*spaces_and_modes, hidden_sizes=(8,))

    return ProbabilisticEnsemble(STATE, context_space, action_space, net, n_models=2)


def make_agent(action_space=BOX, *, seed=None, reward=follow_state, context_space=None):
    objective = ModelObjective(make_model(action_space, context_space), reward, at_once)
    planner = CEM(action_space, 3, n_candidates=100, n_iterations=4)
    return MPCAgent(planner, objective, generator=None if seed is None else torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n_envs", [1, 2, 7])
def test_each_environment_gets_the_action_for_its_own_state(n_envs):
    state = torch.linspace(-0.8, 0.8, n_envs).unsqueeze(1).repeat(1, 2)
    action, info = make_agent().act(state)
    torch.testing.assert_close(action, state[:, :1], rtol=0, atol=0.05)
    assert info["value"].shape == (n_envs,)
    assert info["value"].isfinite().all()


def test_the_present_states_are_valued_where_the_objective_has_a_terminal_value():
    weight = torch.ones((), requires_grad=True)
    objective = ModelObjective(
        make_model(), follow_state, at_once, terminal_value=lambda state, context: weight * state.sum(dim=1)
    )
    state = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    _, info = MPCAgent(CEM(BOX, 3, n_candidates=10, n_iterations=1), objective).act(state)
    assert info["terminal_value"].tolist() == [3.0, 7.0]
    assert not info["terminal_value"].requires_grad
    assert "terminal_value" not in make_agent().act(state)[1]


def test_discrete_actions_count_from_their_start():
    state = torch.tensor([[5.0, 0.0], [7.0, 0.0], [6.0, 0.0]])
    action, info = make_agent(DISCRETE).act(state)
    assert action.tolist() == [[5], [7], [6]]
    assert info["value"].shape == (3,)


def test_each_environment_is_planned_for_in_its_own_context():
    def follow_context(state, context, action, next_state):
        return -(action - context)[..., 0].square()

    context = torch.tensor([[-0.5], [0.7]])
    agent = make_agent(reward=follow_context, context_space=BOX)
    action, _ = agent.act(torch.zeros(2, 2), context)
    torch.testing.assert_close(action, context, rtol=0, atol=0.05)


@pytest.mark.parametrize("goal", [-100.0, 100.0])
def test_actions_stay_inside_the_space(goal):
    agent = make_agent(reward=lambda s, c, a, n: -(a[..., 0] - goal).square())
    for _ in range(3):
        action, _ = agent.act(torch.randn(4, 2))
        assert (action.abs() <= 1).all()
    assert (action * goal > 50).all()


def test_the_next_search_starts_from_the_shifted_mean():
    agent, state = make_agent(seed=3), torch.randn(2, 2)
    generator = torch.Generator().manual_seed(3)
    plan = agent.planner.plan(
        agent.objective(state, generator=generator), agent.planner.init(2), generator=generator
    )
    action, info = agent.act(state)
    assert torch.equal(action, plan.actions[:, 0])
    assert torch.equal(info["value"], plan.value)
    assert torch.equal(agent.state.mean, agent.planner.shift(plan.state).mean)

    next_plan = agent.planner.plan(
        agent.objective(state, generator=generator), agent.planner.shift(plan.state), generator=generator
    )
    assert torch.equal(agent.act(state)[0], next_plan.actions[:, 0])


@pytest.mark.parametrize("kind", [RandomShooting, CEM, ICEM, MPPI])
def test_masked_reset_forgets_some_environments_only(kind):
    agent = MPCAgent(kind(BOX, 3), ModelObjective(make_model(), follow_state, at_once))
    agent.act(torch.tensor([[0.9, 0.0], [0.9, 0.0], [0.9, 0.0]]))
    before, fresh = agent.state, agent.planner.init(1)
    agent.reset(torch.tensor([False, True, False]))
    for name in ("mean", "elites", "n_open"):
        old, now, initial = (getattr(state, name) for state in (before, agent.state, fresh))
        assert torch.equal(now[[0, 2]], old[[0, 2]])
        assert torch.equal(now[1:2], initial)
        assert name == "elites" or not torch.equal(old[1:2], initial)


def test_the_elites_of_an_episode_that_is_over_are_not_tried_again():
    class Recorded(ModelObjective):
        def __call__(self, *args, **more):
            values, self.asked = super().__call__(*args, **more), []
            return lambda plans: (self.asked.append(plans), values(plans))[1]

    planner = ICEM(BOX, 3, n_candidates=30, keep_elite_ratio=1.0)
    agent = MPCAgent(planner, Recorded(make_model(), follow_state, at_once))
    agent.act(torch.zeros(2, 2))
    elites = agent.state.elites[:, :, :2]
    agent.reset(torch.tensor([False, True]))
    agent.act(torch.zeros(2, 2))
    tried = agent.objective.asked[0][:, :, :2]
    again = [
        (elites[v][:, None] == tried[v][None]).all(dim=(2, 3)).any(dim=1).float().mean().item() for v in (0, 1)
    ]
    assert again == [1.0, 0.0]


def test_resetting_an_agent_that_has_not_acted_does_nothing():
    agent = make_agent()
    agent.reset(torch.tensor([True]))
    agent.reset()
    assert agent.act(torch.zeros(2, 2))[0].shape == (2, 1)


def test_another_number_of_environments_needs_a_reset():
    agent = make_agent()
    agent.act(torch.zeros(2, 2))
    before = agent.state.mean.clone()
    with pytest.raises(ValueError, match=r"state: got 3 environments, expected 2 as before; call reset\(\)"):
        agent.act(torch.zeros(3, 2))
    assert torch.equal(agent.state.mean, before)
    agent.reset()
    assert agent.act(torch.zeros(3, 2))[0].shape == (3, 1)


def test_a_mask_of_another_size_is_refused():
    agent = make_agent()
    agent.act(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"mask: got .*, expected a bool tensor of shape \(2,\)"):
        agent.reset(torch.tensor([True, False, True]))


@pytest.mark.parametrize(
    ("model_space", "planner_space"),
    [
        (BOX, DISCRETE),
        (DISCRETE, BOX),
        (BOX, Box(-1.0, 2.0, (1,))),
        (DISCRETE, Discrete(3)),
        (BOX, Box(-1, 1, (2,))),
    ],
    ids=str,
)
def test_a_planner_for_other_actions_than_the_models_is_refused(model_space, planner_space):
    objective = ModelObjective(make_model(model_space), follow_state)
    with pytest.raises(ValueError, match=r"planner: got one for .*, expected .*, as has the objective's model"):
        MPCAgent(CEM(planner_space, 3), objective)


@pytest.mark.parametrize("acted_before", [False, True])
def test_a_state_that_is_refused_leaves_the_agent_as_it_was(acted_before, unchecked):
    agent = make_agent()
    if acted_before:
        agent.act(torch.zeros(3, 2))
    before = agent.state
    with pytest.raises(ValueError, match=r"state: got nan at index \(.*\), expected finite values"):
        agent.act(torch.full((3, 2), float("nan")))
    with pytest.raises(ValueError, match=r"state: got shape .*, expected"):
        agent.act(torch.zeros(3, 5))
    with pytest.raises(TypeError, match=r"state: got .*, expected"):
        agent.act(torch.zeros(3, 2).numpy())
    assert agent.state is before


def test_the_generator_decides_the_actions_and_spares_the_global_one():
    state, before = torch.zeros(2, 2), torch.get_rng_state()
    agents = [make_agent(seed=seed) for seed in (1, 1, 2)]
    for agent in agents[1:]:
        agent.objective = agents[0].objective
    torch.set_rng_state(before)
    actions = [agent.act(state)[0] for agent in agents]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(actions[0], actions[1])
    assert not torch.equal(actions[0], actions[2])
