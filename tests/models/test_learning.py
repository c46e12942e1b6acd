"""`learn`: what is learned from data of known laws."""

from functools import partial

import pytest
import torch
from torch import nn

from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.types import Batch
from tests.models.ensembles import ACTION, DISCRETE, draw, make_batch, make_ensemble

WIDE_NET = partial(ProbFCDynamics, hidden_sizes=(64, 64), nonlinearity=nn.SiLU)


def learner(**settings):
    return make_ensemble(create_optimizer=True, statistics=False, **{"learning_rate": 3e-3, **settings})


def transitions(n: int, delta, terminated=None, action_space=ACTION) -> Batch:
    """Transitions whose next state is `state + delta(state, action)`."""
    state, action = torch.randn(n, 3), draw(action_space, n)
    terminated = torch.zeros(n, dtype=torch.bool) if terminated is None else terminated(state)
    return Batch(state, None, action, state + delta(state, action), terminated)


def minibatches(data: Batch, n: int, size: int = 128) -> list[Batch]:
    return [data[torch.randint(len(data), (size,))] for _ in range(n)]


def test_dimensions_of_very_different_scales_are_all_learned():
    scales = torch.tensor([1e-3, 1.0, 30.0])
    data = transitions(2000, lambda s, a: scales * torch.stack([a[:, 0], s[:, 1] * a[:, 1], s[:, 2]], dim=1))
    model = learner(n_models=2, net=WIDE_NET)
    model.learn(minibatches(data, 1000))
    rmse = model.get_member_scores(data).mse.sqrt() / (data.next_state - data.state).std(dim=0)
    assert rmse.max() < 0.1


def test_bimodal_data_favour_two_modes_by_more_than_two_nats():
    def jump(state, action):
        return torch.sign(torch.randn(len(state), 1)) + 0.02 * torch.randn_like(state)

    train, test = transitions(2000, jump), transitions(500, jump)
    nll = {}
    for n_modes in (1, 2):
        model = learner(n_modes=n_modes)
        model.learn(minibatches(train, 600))
        nll[n_modes] = model.get_member_scores(test).nll.item()
    assert nll[1] - nll[2] > 2.0


def test_termination_is_learned():
    data = transitions(2000, lambda s, a: 0.1 * a[:, :1], terminated=lambda s: s[:, 0] > 0.5)
    model = learner(n_models=2, net=WIDE_NET)
    model.learn(minibatches(data, 800))
    term_prob = model.predict(data.state, None, data.action).term_prob
    assert ((term_prob > 0.5) == data.terminated).float().mean() > 0.97


def test_discrete_actions_are_told_apart():
    data = transitions(1000, lambda s, a: a.float() ** 2, action_space=DISCRETE)
    model = learner(action_space=DISCRETE)
    model.learn(minibatches(data, 400))
    assert model.get_member_scores(data).mse.max().sqrt() < 0.5


def test_a_step_of_e_members_equals_e_steps_apart():
    together = learner(n_models=3)
    batches = [make_batch(20) for _ in range(3)]
    alone = []
    for e in range(3):
        model = learner(n_models=1)
        weights = {name: value[e : e + 1] for name, value in together.members.nets.state_dict().items()}
        model.members.nets.load_state_dict(weights)
        model.learn(batches)
        alone.append(model.members.nets.state_dict())
    together.learn(batches)
    for name, value in together.members.nets.state_dict().items():
        expected = torch.cat([weights[name] for weights in alone])
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_members_start_apart_and_learn_apart():
    model = learner(n_models=3)
    weights = next(model.get_parameters())
    assert not torch.allclose(weights[0], weights[1])
    data = transitions(200, lambda s, a: a[:, :1])
    model.learn(minibatches(data, 5))
    assert not torch.allclose(weights[1], weights[2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["state", "action", "next_state"])
def test_non_finite_data_are_refused_before_anything_changes(bad, field):
    model = learner(n_models=2)
    good, poisoned = make_batch(10), make_batch(10)
    getattr(poisoned, field)[3, 1] = bad
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"Batch\.{field}: row 3 is (nan|inf)"):
        model.learn([good, poisoned])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_batches_of_one_and_constant_dimensions_make_no_nan():
    model = learner(n_models=2)
    constant = transitions(10, lambda s, a: torch.zeros_like(s))
    constant = Batch(torch.ones(10, 3), None, torch.zeros(10, 2), torch.ones(10, 3), constant.terminated)
    for batch in (make_batch(1), constant):
        assert model.learn([batch] * 3).isfinite()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    rollout = model.rollout(torch.randn(2, 3), None, draw(ACTION, 2, 5))
    assert rollout.state.isfinite().all()
    assert rollout.state_epistemic_var.isfinite().all()


def test_learning_without_an_optimizer_says_how_to_get_one():
    with pytest.raises(ValueError, match="create_optimizer=True"):
        make_ensemble().learn([make_batch(4)])


def test_a_model_with_nothing_to_learn_does_nothing():
    class Still(nn.Module):
        def forward(self, state, context, action):
            mean = torch.zeros_like(state).unsqueeze(-2)
            return (mean, mean + 1), mean[..., 0] + 1, torch.zeros_like(state[..., 0])

    assert make_ensemble(net=lambda *_: Still()).learn([make_batch(4)]) is None
    assert learner(n_models=2).learn([]) is None


def test_statistics_follow_training_data_only():
    model = learner(target_bn_momentum=0.5)
    model.learn([make_batch(100), make_batch(100)])
    statistics = model.members.inputs.mean.clone(), model.members.targets.var.clone()
    model.rollout(100 + torch.randn(4, 3), None, draw(ACTION, 4, 5))
    model.get_member_scores(make_batch(10))
    assert torch.equal(statistics[0], model.members.inputs.mean)
    assert torch.equal(statistics[1], model.members.targets.var)


def test_learning_uses_training_mode_and_leaves_it():
    seen = []

    class Watched(ProbFCDynamics):
        def forward(self, *args):
            seen.append(self.training)
            return super().forward(*args)

    model = learner(net=partial(Watched, hidden_sizes=(8,)))
    assert not model.training
    seen.clear()
    model.learn([make_batch(4)])
    assert seen == [True]
    model.predict(torch.zeros(1, 3), None, torch.zeros(1, 2))
    assert seen == [True, False]


def test_normalization_can_be_switched_off():
    model = learner(normalize_targets=False, normalize_inputs=False)
    model.learn([make_batch(100)])
    assert torch.equal(model.members.targets.scale, torch.ones(3))
    assert torch.equal(model.members.inputs.mean, torch.zeros(5))
