"""Closed-loop rollouts against a loop by hand."""

import pytest
import torch

from layeredrl.agents.policy_rollout import rollout_policy
from layeredrl.policies import GRU, MLP, DeterministicPolicy, GaussianPolicy, policy_for
from tests.models.ensembles import ACTION, CONTEXT, DISCRETE, STATE, make_ensemble, make_fixed, query

TRUNK = MLP((8,))


def make_policy(action_space=ACTION, trunk=TRUNK):
    policy = policy_for(STATE, action_space, trunk, device="cpu")
    policy.eval()
    return policy


def test_shapes_and_laws_of_what_is_returned():
    model = make_ensemble(n_models=3, n_particles_per_model=2, context_space=CONTEXT, action_space=DISCRETE)
    state, context, _ = query(model, 5)
    rollout = rollout_policy(model, state, context, make_policy(DISCRETE), horizon=4)
    assert rollout.state.shape == (5, 3, 2, 5, 3)
    assert rollout.action.shape == (5, 3, 2, 4, 1)
    assert rollout.log_prob.shape == rollout.term_prob.shape == (5, 3, 2, 4)
    assert (rollout.log_prob < 0).all()
    assert ((rollout.action >= 1) & (rollout.action <= 4)).all()
    assert rollout.is_valid.shape == (5, 3, 2, 4)
    assert rollout.is_valid.all()
    assert torch.equal(rollout.n_steps, torch.full((5, 3, 2), 4))


@pytest.mark.parametrize("trunk", [MLP((8,)), GRU(hidden_size=6)], ids=["mlp", "gru"])
def test_each_particle_is_acted_on_where_it_is(trunk):
    """Members without noise move by their gain times the action: follow each by hand."""
    members = [{"offset": 0.1 * e, "std": 1e-7, "gain": 1.0 + e} for e in range(3)]
    model = make_fixed(*members, n_particles_per_model=2)
    policy = make_policy(trunk=trunk)
    start = torch.randn(4, 3)
    rollout = rollout_policy(model, start, None, policy, horizon=5)
    torch.testing.assert_close(rollout.state[..., 0, :], start[:, None, None].expand(4, 3, 2, 3))
    for e, member in enumerate(members):
        action = rollout.action[:, e, :, :, :1]
        moved = rollout.state[:, e, :, :-1] + member["offset"] + member["gain"] * action
        torch.testing.assert_close(rollout.state[:, e, :, 1:], moved, rtol=1e-5, atol=1e-5)
    memory = None
    for t in range(5):  # the policy's own density of these actions, particle by particle
        rows = rollout.state[:, :, :, t].flatten(0, 2)
        inputs = {"observations": rows, "taken_actions": rollout.action[:, :, :, t].flatten(0, 2)}
        _, outputs = policy.act(inputs | ({} if memory is None else {"rnn": memory}))
        memory = outputs.get("rnn")
        inside = (rollout.action[:, :, :, t].abs() < 1).all(dim=-1).flatten()
        got = rollout.log_prob[..., t].flatten()[inside]
        torch.testing.assert_close(got, outputs["log_prob"][inside, 0], rtol=1e-4, atol=1e-4)


def test_each_start_keeps_its_context():
    class Obedient(DeterministicPolicy):
        def compute(self, inputs, role=""):
            return inputs["context"], {}

    model = make_ensemble(n_models=3, n_particles_per_model=2, context_space=CONTEXT)
    state, context, _ = query(model, 5)
    rollout = rollout_policy(model, state, context, Obedient(STATE, ACTION, device="cpu"), horizon=4)
    assert torch.equal(rollout.action, context[:, None, None, None].expand(5, 3, 2, 4, 2))
    assert torch.equal(rollout.log_prob, torch.zeros(5, 3, 2, 4))


def test_only_elites_are_rolled():
    model = make_ensemble(n_models=4)
    model.set_elites(torch.tensor([1, 3]))
    assert rollout_policy(model, torch.zeros(2, 3), None, make_policy(), horizon=2).state.shape[1] == 2


def test_gradients_reach_the_policy():
    model, policy = make_ensemble(n_models=2), make_policy()
    rollout_policy(model, torch.randn(3, 3), None, policy, horizon=3).state[..., -1, :].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.trunk.parameters())


def test_the_generator_decides_everything():
    model, policy = make_ensemble(n_models=2, n_particles_per_model=3), make_policy()
    random_state = torch.get_rng_state()
    first, second = (
        rollout_policy(model, torch.zeros(2, 3), None, policy, 3, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert torch.equal(first.state, second.state)
    assert torch.equal(random_state, torch.get_rng_state())


def test_wrong_sizes_are_named(unchecked):
    model = make_ensemble()
    with pytest.raises(ValueError, match=r"policy\.num_actions: got 4, expected the model's 2"):
        rollout_policy(model, torch.zeros(2, 3), None, make_policy(DISCRETE), 3)
    other = GaussianPolicy(ACTION, ACTION, device="cpu")
    with pytest.raises(ValueError, match=r"policy\.num_observations: got 2, expected the model's 3"):
        rollout_policy(model, torch.zeros(2, 3), None, other, 3)
    with pytest.raises(ValueError, match="horizon: got 0, expected at least 1"):
        rollout_policy(model, torch.zeros(2, 3), None, make_policy(), 0)
    with pytest.raises(ValueError, match=r"initial_state: got nan at index \(0, 0\)"):
        rollout_policy(model, torch.full((2, 3), torch.nan), None, make_policy(), 2)
