"""PolicyProposals: what a policy does in a model, and planners that start from there."""

import pytest
import torch
from gymnasium.spaces import Box, MultiDiscrete

from layeredrl.agents.mpc_agent import MPCAgent
from layeredrl.agents.policy_proposals import PolicyProposals
from layeredrl.planners.cem import CEM
from layeredrl.planners.icem import ICEM
from layeredrl.planners.mppi import MPPI
from layeredrl.policies import MLP, DeterministicPolicy, GaussianPolicy, policy_for
from layeredrl.policies.model import Model
from tests.agents import combination_lock
from tests.agents.combination_lock import Opener, make_lock
from tests.models.ensembles import ACTION, CONTEXT, DISCRETE, STATE, make_ensemble, make_fixed, query

H = 4


def propose(model, policy, n_envs=3, *, seed=0, **settings):
    state, context, _ = query(model, n_envs)
    return PolicyProposals(model, policy, H, **settings)(state, context, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("action_space", [ACTION, DISCRETE, MultiDiscrete([2, 4], start=[-1, 3])], ids=str)
@pytest.mark.parametrize("n_rollouts", [1, 3])
def test_there_is_a_proposal_for_each_particle_of_each_elite(action_space, n_rollouts):
    model = make_ensemble(n_models=4, n_particles_per_model=2, action_space=action_space)
    model.set_elites(torch.tensor([0, 2, 3]))
    policy = policy_for(STATE, action_space, MLP((8,)), "cpu")
    proposals = propose(model, policy, n_rollouts=n_rollouts)
    size = 1 if action_space is DISCRETE else 2
    assert proposals.shape == (3, n_rollouts * 3 * 2, H, size)
    assert len(proposals[0].float().flatten(1).unique(dim=0)) > 1
    planner = CEM(action_space, H, n_candidates=2, n_iterations=1)  # which refuses what lies outside its space
    plan = planner.plan(lambda plans: plans.float().sum(dim=(2, 3)), planner.init(3), proposals=proposals)
    assert plan.actions.dtype == proposals.dtype


def test_proposals_of_a_wild_policy_lie_inside_the_space():
    model = make_ensemble(n_models=2, n_particles_per_model=5)
    proposals = propose(model, GaussianPolicy(STATE, ACTION, MLP((8,)), "cpu", initial_log_std=2))
    assert proposals.abs().max() == 1.0


class Echo(Model):
    """Acts by what it sees."""

    def compute(self, inputs, role=""):
        seen = torch.cat([inputs["observations"], inputs["context"]], dim=-1)
        return seen[..., [0, 3]], {}

    def act(self, inputs, *, role=""):
        return self.compute(inputs, role)


def test_proposals_are_those_of_their_environment_member_and_context():
    """Actions that tell where they were made: of environment v, at v / 10 in context −v / 10, members move by e."""
    wide = Box(-10.0, 10.0, (2,))
    members = [{"offset": 0.01 * e, "std": 1e-6} for e in range(3)]
    model = make_fixed(*members, context_space=CONTEXT, action_space=wide, n_particles_per_model=2)
    name = torch.arange(4.0) / 10
    state, context = name[:, None].expand(4, 3), -name[:, None].expand(4, 2)
    proposals = PolicyProposals(model, Echo(STATE, wide, "cpu"), H, n_rollouts=2)(state, context, None)
    for v in range(4):
        for k, proposal in enumerate(proposals[v]):
            member = k // 2 % 3
            expected = 0.1 * v + 0.01 * member * torch.arange(H)
            torch.testing.assert_close(proposal[:, 0], expected, rtol=0, atol=1e-4)
            torch.testing.assert_close(proposal[:, 1], torch.full((H,), -0.1 * v))


def test_the_generator_decides_and_spares_the_global_one():
    model, policy = make_ensemble(n_models=2), GaussianPolicy(STATE, ACTION, MLP((8,)), "cpu")
    state, before = torch.randn(3, 3), torch.get_rng_state()
    first, again, other = (
        PolicyProposals(model, policy, H)(state, None, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nothing_that_could_be_learned_from_is_kept():
    model, policy = make_ensemble(n_models=2), DeterministicPolicy(STATE, ACTION, MLP((8,)), "cpu")
    assert not propose(model, policy).requires_grad


def test_no_rollouts_are_refused():
    with pytest.raises(ValueError, match="n_rollouts: got 0, expected at least 1"):
        PolicyProposals(make_ensemble(), DeterministicPolicy(STATE, ACTION, MLP((8,)), "cpu"), H, n_rollouts=0)


PLANNERS = {
    "cem": lambda space: CEM(space, combination_lock.H, n_candidates=100),
    "icem": lambda space: ICEM(space, combination_lock.H, n_candidates=100),
    "mppi": lambda space: MPPI(space, combination_lock.H, n_candidates=100, temperature=0.01),
    "mppi-best": lambda space: MPPI(space, combination_lock.H, n_candidates=100, result="best"),
}


@pytest.mark.parametrize("make_planner", PLANNERS.values(), ids=PLANNERS.keys())
@pytest.mark.parametrize("space", [combination_lock.BOX, combination_lock.DISCRETE], ids=["box", "discrete"])
def test_a_policy_opens_a_lock_for_its_planner(make_planner, space):
    """Search alone doesn't find the code; with the policy's proposals, the plan is no worse than the policy."""
    objective, planner, policy = make_lock(space), make_planner(space), Opener(space)
    state = combination_lock.start(torch.tensor([1.0, 2.0, 3.0]))
    proposals = PolicyProposals(objective.model, policy, planner.horizon)
    own = objective(state)(proposals(state, None, None)).amax(dim=1)
    assert own.tolist() == [1.0, 1.0, 1.0]

    alone = planner.plan(objective(state), planner.init(3))
    assert alone.value.tolist() == [0.0, 0.0, 0.0]
    seeded = planner.plan(objective(state), planner.init(3), proposals=proposals(state, None, None))
    assert (seeded.value >= own).all()
    assert (objective(state)(seeded.actions[:, None])[:, 0] >= own).all()


@pytest.mark.parametrize("make_planner", PLANNERS.values(), ids=PLANNERS.keys())
def test_an_agent_opens_each_environments_own_lock(make_planner):
    space = combination_lock.DISCRETE
    objective, planner = make_lock(space), make_planner(space)
    proposals = PolicyProposals(objective.model, Opener(space), planner.horizon)
    agent = MPCAgent(planner, objective, proposals=proposals, replan_every=combination_lock.H)
    state = combination_lock.start(torch.tensor([1.0, 2.0, 3.0]))
    for _ in range(combination_lock.H):
        action, info = agent.act(state)
        assert torch.equal(action, combination_lock.right_action(space, state))
        assert info["value"].tolist() == [1.0, 1.0, 1.0]
        state = state + 1
