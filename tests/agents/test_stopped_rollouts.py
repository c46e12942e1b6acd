"""Rollouts that stop where the model stops knowing: by hand, by a loop, and in a world of which it knows half."""

from functools import partial

import pytest
import torch
from gymnasium.spaces import Box
from torch import nn

from layeredrl.agents.mpc_agent import MPCAgent
from layeredrl.agents.policy_rollout import rollout_policy
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.planners.cem import CEM
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.terms import Halt, MaxDistance
from layeredrl.policies import GRU, MLP, policy_for
from layeredrl.policies.model import Model
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig
from layeredrl.types import Batch
from tests.models.ensembles import ACTION, CONTEXT, STATE, make_batch, make_ensemble, make_fixed, query


class Constant(Model):
    """Does the same everywhere; refuses to see what isn't finite."""

    def __init__(self, state_space, action_space, action):
        super().__init__(state_space, action_space, "cpu")
        self.action = torch.tensor(action)

    def compute(self, inputs, role=""):
        assert inputs["observations"].isfinite().all()
        return self.action.expand(len(inputs["observations"]), -1), {}

    def act(self, inputs, *, role=""):
        return self.compute(inputs, role)


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def test_members_that_part_by_the_action_stop_on_the_spot():
    """They disagree by half the action, here 0.4, and are trusted up to 0.3 or 0.5."""
    model = make_fixed({"offset": 1.0, "std": 1e-6}, {"offset": 1.0, "std": 1e-6, "gain": 1.0})
    policy = Constant(STATE, ACTION, [0.8, 0.0])
    model.epistemic_limit.fit(torch.full((5, 3), 0.3), 1.0, torch.ones(3))
    stopped = rollout_policy(model, torch.zeros(2, 3), None, policy, 4, trust=model.epistemic_limit)
    assert torch.equal(stopped.state, torch.zeros(2, 2, 1, 5, 3))
    assert not stopped.is_valid.any()
    assert torch.equal(stopped.n_steps, torch.zeros(2, 2, 1, dtype=torch.long))
    model.epistemic_limit.fit(torch.full((5, 3), 0.5), 1.0, torch.ones(3))
    free = rollout_policy(model, torch.zeros(2, 3), None, policy, 4, trust=model.epistemic_limit)
    assert free.is_valid.all()
    torch.testing.assert_close(free.state[0, 1, 0, :, 0], 1.8 * torch.arange(5.0), rtol=0, atol=1e-4)


def test_any_trust_stops_rollouts():
    """Members that part by 1 a step are trusted up to a distance of 2.5 √3: for two steps."""
    model = make_fixed({"offset": 0.0, "std": 1e-6}, {"offset": 1.0, "std": 1e-6})
    policy = Constant(STATE, ACTION, [0.0, 0.0])
    rollout = rollout_policy(model, torch.zeros(1, 3), None, policy, 5, trust=MaxDistance(2.5 * 3**0.5))
    assert rollout.n_steps.flatten().tolist() == [2, 2]
    torch.testing.assert_close(rollout.state[0, 1, 0, :, 0], torch.tensor([0.0, 1, 2, 2, 2, 2]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("trunk", [MLP((8,)), GRU(hidden_size=6)], ids=["mlp", "gru"])
def test_each_particle_is_stopped_by_itself_and_until_then_goes_as_if_nothing_were(trunk):
    """By a loop over all of them: each is put before all elites, one by one."""
    model = make_ensemble(n_models=4, n_particles_per_model=2, context_space=CONTEXT)
    model.set_elites(torch.tensor([0, 1, 3]))
    policy = policy_for(STATE, ACTION, trunk, device="cpu")
    policy.eval()
    state, context, _ = query(model, 4)
    model.fit_epistemic_limit(make_batch(100, CONTEXT), share=0.7)
    free, stopped = (
        rollout_policy(model, state, context, policy, 5, trust=trust, generator=seeded())
        for trust in (None, model.epistemic_limit)
    )
    for b, e, p in torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(2)):
        n_steps = 0
        for t in range(5):
            where = free.state[b, e, p, t], context[b], free.action[b, e, p, t]
            mean, weights, _, _ = model.predict(*(x[None] for x in where))
            std = (weights[..., None] * mean).sum(dim=2)[0, model.elites].std(dim=0, correction=0)
            if (std > model.epistemic_limit.std).any():
                break
            n_steps += 1
        assert stopped.n_steps[b, e, p] == n_steps
        assert stopped.is_valid[b, e, p].tolist() == [t < n_steps for t in range(5)]
        path = free.state[b, e, p, torch.arange(6).clamp_max(n_steps)]
        torch.testing.assert_close(stopped.state[b, e, p], path, rtol=1e-4, atol=1e-4)
        actions = stopped.action[b, e, p, :n_steps]
        torch.testing.assert_close(actions, free.action[b, e, p, :n_steps], rtol=1e-4, atol=1e-4)
    assert 0 < stopped.is_valid.sum() < stopped.is_valid.numel()


def test_a_particle_that_would_break_down_is_stopped_before_anyone_sees_it():
    model = make_fixed({"offset": 0.0, "std": 1.0}, {"offset": 3e38, "std": 1.0})
    model.epistemic_limit.fit(torch.ones(5, 3), 1.0, torch.ones(3))
    policy = Constant(STATE, ACTION, [0.0, 0.0])
    rollout = rollout_policy(model, torch.zeros(2, 3), None, policy, 4, trust=model.epistemic_limit)
    assert rollout.state.isfinite().all()
    assert not rollout.is_valid.any()
    with pytest.raises(AssertionError):
        rollout_policy(model, torch.zeros(2, 3), None, policy, 4)


def test_gradients_reach_the_policy_through_valid_steps():
    model = make_ensemble(n_models=3)
    model.fit_epistemic_limit(make_batch(100), share=0.9)
    policy = policy_for(STATE, ACTION, MLP((8,)), device="cpu")
    rollout = rollout_policy(model, torch.randn(6, 3), None, policy, horizon=3, trust=model.epistemic_limit)
    assert not rollout.is_valid.all()
    rollout.state[..., -1, :].sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in policy.trunk.parameters())


def test_a_limit_that_is_not_fitted_and_a_lone_elite_are_said_plainly():
    model, policy = make_ensemble(n_models=2), Constant(STATE, ACTION, [0.0, 0.0])
    with pytest.raises(ValueError, match=r"call model\.fit_epistemic_limit\(held_out\) after training"):
        rollout_policy(model, torch.zeros(1, 3), None, policy, 2, trust=model.epistemic_limit)
    model.fit_epistemic_limit(make_batch(20))
    model.set_elites(torch.tensor([1]))
    with pytest.raises(ValueError, match="got a single one, which has nobody to disagree with"):
        rollout_policy(model, torch.zeros(1, 3), None, policy, 2, trust=model.epistemic_limit)


# Half a world ---------------------------------------------------------------------------------------------------

PLANE, PUSH = Box(-10.0, 10.0, (2,)), Box(-1.0, 1.0, (1,))


def push(state, action, noise):
    """To the right or left along a bumpy line, whose slope is the second coordinate."""
    position = state[..., 0] + 0.4 * action[..., 0]
    return torch.stack([position, torch.sin(2 * position)], dim=-1) + 0.01 * noise


@pytest.fixture(scope="module")
def knows_the_left():
    """A model that has been left of the origin only."""
    generator = seeded(0)
    position = -3 * torch.rand(2000, generator=generator)
    state = torch.stack([position, torch.sin(2 * position)], dim=-1)
    action = 2 * torch.rand(2000, 1, generator=generator) - 1
    next_state = push(state, action, torch.randn(2000, 2, generator=generator))
    batch = Batch(state, None, action, next_state, torch.zeros(2000, dtype=torch.bool))
    stays = next_state[:, 0] < 0
    buffer = ReplayBuffer(PLANE, None, PUSH, capacity=2000, holdout_ratio=0.2)
    buffer.add(batch[stays])
    torch.manual_seed(0)
    net = partial(ProbFCDynamics, hidden_sizes=(32, 32), nonlinearity=nn.SiLU)
    model = ProbabilisticEnsemble(PLANE, None, PUSH, net, n_models=4)
    EnsembleTrainer(model, TrainerConfig(max_epochs=40, batch_size=64)).fit(buffer)
    model.fit_epistemic_limit(buffer[buffer.is_holdout])
    return model


def test_a_policy_that_leaves_what_the_model_knows_is_stopped_there(knows_the_left):
    """From −1.5 on to the right: to the origin, or hardly beyond."""
    model, start = knows_the_left, torch.tensor([[-1.5, -0.14]])
    rollout = rollout_policy(
        model, start, None, Constant(PLANE, PUSH, [1.0]), 20, trust=model.epistemic_limit, generator=seeded()
    )
    ends = rollout.state[..., -1, 0]
    assert (rollout.n_steps < 20).all()
    assert ((ends > -0.8) & (ends < 0.8)).all()


def test_a_policy_that_stays_at_home_goes_on(knows_the_left):
    class Homesick(Constant):
        def compute(self, inputs, role=""):
            return (-1.5 - inputs["observations"][:, :1]).clamp(-1, 1), {}

    model, start = knows_the_left, torch.tensor([[-2.5, 0.96], [-0.5, -0.84]])
    policy = Homesick(PLANE, PUSH, [0.0])
    rollout = rollout_policy(model, start, None, policy, 20, trust=model.epistemic_limit, generator=seeded())
    assert rollout.is_valid.float().mean() > 0.95


def test_a_planner_that_is_drawn_to_the_unknown_stays_with_what_it_knows(knows_the_left):
    """What is far to the right is worth most. Halting costs more than there is to be gained."""

    def reward(state, context, action, next_state):
        return next_state[..., 0]

    model, start = knows_the_left, torch.tensor([[-1.5, -0.14]])
    ends = []
    for terms in ([], [Halt(model.epistemic_limit, penalty=100.0)]):
        objective = ModelObjective(model, reward, terms=terms)
        planner = CEM(PUSH, 12, n_candidates=60, n_iterations=4)
        agent = MPCAgent(planner, objective, generator=seeded())
        agent.act(start)
        plan = agent.plan.actions
        rollout = model.rollout(start, None, plan, deterministic=True)
        ends.append(rollout.state_mean[0, :, -1, 0].mean().item())
    assert ends[0] > 1.0
    assert ends[1] < 0.5
