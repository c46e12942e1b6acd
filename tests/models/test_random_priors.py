"""Members with random priors (Osband et al. 2018) agree where there are data, and nowhere else."""

from functools import partial

import pytest
import torch
from torch import nn

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig
from layeredrl.types import Batch
from tests.models.ensembles import ACTION, STATE, draw, make_batch, make_ensemble, query


def make(prior_scale=1.0, *, hidden_sizes=(32, 32), nonlinearity=nn.SiLU, **settings):
    net = partial(ProbFCDynamics, hidden_sizes=hidden_sizes, nonlinearity=nonlinearity, prior_scale=prior_scale)
    return make_ensemble(net=net, **settings)


def prior_tensors(model):
    return {name: tensor for name, tensor in model.state_dict().items() if ".prior." in name}


def disagreement(model, state, action):
    """Root mean variance between members' means, in units of the targets, of each dimension."""
    mean = model.predict(state, None, action).mean[:, :, 0].detach() / model.members.targets.scale
    return mean.var(dim=1).mean(dim=0).sqrt()


@pytest.mark.parametrize("nonlinearity", [nn.ReLU, nn.SiLU, nn.Tanh])
@pytest.mark.parametrize("prior_scale", [0.5, 5.0])
def test_before_training_members_disagree_by_the_scale(prior_scale, nonlinearity):
    torch.manual_seed(0)
    model = make(prior_scale, n_models=12, nonlinearity=nonlinearity, normalize_inputs=False)
    got = disagreement(model, torch.randn(200, 3), draw(ACTION, 200))
    torch.testing.assert_close(got, torch.full((3,), prior_scale), rtol=0.35, atol=0.0)


def test_the_prior_is_added_to_the_means_of_all_modes_and_to_nothing_else():
    torch.manual_seed(1)
    model = make(2.0, n_models=3, n_modes=2)
    inputs = torch.randn(3, 7, 3), None, torch.randn(3, 7, 2)
    net = model.members.nets
    (mean, std), weights, term_prob = net(*inputs)
    prior = net.members.prior(torch.cat([inputs[0], inputs[2]], dim=-1))
    net.members.prior_scale = 0.0
    (bare_mean, *bare), *others = net(*inputs)
    torch.testing.assert_close(mean, bare_mean + 2.0 * prior.unsqueeze(-2))
    assert all(torch.equal(a, b) for a, b in zip((std, weights, term_prob), (*bare, *others), strict=True))


@torch.no_grad()
def test_many_rows_are_answered_as_few_are():
    """Members take turns for many rows on a CPU, priors included."""
    model = make(n_models=3)
    state, _, action = query(model, 1000)
    many = model.predict(state, None, action).mean
    few = torch.cat(
        [model.predict(state[i : i + 100], None, action[i : i + 100]).mean for i in range(0, 1000, 100)]
    )
    torch.testing.assert_close(many, few, rtol=1e-4, atol=1e-4)


def test_priors_are_kept_and_never_trained():
    torch.manual_seed(2)
    model = make(n_models=2, create_optimizer=True)
    before = {name: tensor.clone() for name, tensor in prior_tensors(model).items()}
    assert len(before) == 6
    assert all(parameter.requires_grad and len(parameter) == 2 for parameter in model.get_parameters())
    model.learn([make_batch(30) for _ in range(3)])
    buffer = ReplayBuffer(STATE, None, ACTION, capacity=100)
    buffer.add(make_batch(100))
    EnsembleTrainer(model, TrainerConfig(max_epochs=2, weight_decay=1.0)).fit(buffer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in prior_tensors(model).items())
    other = make(n_models=2)
    other.load_state_dict(model.state_dict())
    inputs = query(model, 5)
    assert torch.equal(other.predict(*inputs).mean, model.predict(*inputs).mean)


def test_without_a_scale_there_is_no_prior():
    torch.manual_seed(3)
    model = make(0.0)
    torch.manual_seed(3)
    plain = make_ensemble(net=partial(ProbFCDynamics, hidden_sizes=(32, 32), nonlinearity=nn.SiLU))
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(model.get_parameters(), plain.get_parameters(), strict=True))


def test_away_from_data_members_disagree_and_near_data_nothing_is_lost():
    def transitions(n):
        state, action = 0.5 * torch.randn(n, 3), draw(ACTION, n)
        delta = torch.stack([torch.sin(2 * state[:, 0]), action[:, 0], state[:, 2] * action[:, 1]], dim=1)
        return Batch(state, None, action, state + delta + 0.1 * torch.randn(n, 3), torch.zeros(n, dtype=torch.bool))

    far, loss, error = {}, {}, {}
    for prior_scale in (0.0, 1.0):
        torch.manual_seed(4)
        model = make(
            prior_scale,
            hidden_sizes=(64, 64),
            n_models=4,
            statistics=False,
            create_optimizer=True,
            learning_rate=3e-3,
        )
        train, test = transitions(3000), transitions(1000)
        model.set_statistics(train)
        model.learn([train[torch.randint(3000, (128,))] for _ in range(300)])
        inputs = test.state, None, test.action
        far[prior_scale] = disagreement(model, test.state + 3.0, test.action).mean()
        loss[prior_scale] = -model.get_log_prob(*inputs, test.next_state)[0].mean()
        error[prior_scale] = (model.predict(*inputs).mean.mean(dim=(1, 2)) - test.next_state).square().mean()
    assert far[1.0] > 2 * far[0.0]
    assert loss[1.0] < loss[0.0] + 0.05
    assert error[1.0] < 1.1 * error[0.0]


@pytest.mark.parametrize("prior_scale", [-1.0, float("inf"), float("nan")])
def test_impossible_scales_are_refused(prior_scale):
    with pytest.raises(ValueError, match="prior_scale: got"):
        make(prior_scale)
