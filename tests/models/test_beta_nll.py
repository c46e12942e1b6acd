"""β-NLL (Seitzer et al. 2022): its gradients, its scores, and what it is for."""

from functools import partial

import pytest
import torch
from torch import nn

from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.types import Batch
from tests.models.ensembles import ACTION, draw, make_batch, make_ensemble

NET = partial(ProbFCDynamics, hidden_sizes=(32, 32), nonlinearity=nn.SiLU)


class Constant(nn.Module):
    """Foretells the same everywhere: its parameters."""

    def __init__(self, *_):
        super().__init__()
        self.mean, self.std = nn.Parameter(torch.randn(1, 3)), nn.Parameter(0.5 + torch.rand(1, 3))

    def forward(self, state, context, action):
        shape = (*state.shape[:-1], 1, 3)
        nothing = torch.zeros_like(state[..., 0])
        return (self.mean.expand(shape), self.std.expand(shape)), nothing.unsqueeze(-1) + 1.0, nothing + 0.5


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gradients_are_those_of_the_likelihood_times_a_power_of_the_std(beta):
    """σ^2β ∂/∂μ = σ^(2β−2) (μ − y) and σ^2β ∂/∂σ = σ^(2β−1) − σ^(2β−3) (μ − y)²."""
    model = make_ensemble(net=Constant, n_models=2, beta_nll=beta)
    batch = make_batch(30)
    target = (batch.next_state - batch.state) / model.members.targets.scale
    model.loss(batch).backward()
    net = model.members.nets.members
    error, std = net.mean.detach() - target, net.std.detach()
    expected_mean = (std ** (2 * beta - 2) * error).mean(dim=1, keepdim=True)
    expected_std = (std ** (2 * beta - 1) - std ** (2 * beta - 3) * error.square()).mean(dim=1, keepdim=True)
    torch.testing.assert_close(net.mean.grad, expected_mean)
    torch.testing.assert_close(net.std.grad, expected_std)


def test_held_out_scores_are_plain():
    plain, weighted = make_ensemble(n_models=2), make_ensemble(n_models=2, beta_nll=0.5)
    weighted.load_state_dict(plain.state_dict())
    batch = make_batch(40)
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.get_member_scores(batch), weighted.get_member_scores(batch), strict=True)
    )
    assert not torch.allclose(plain.get_member_losses(batch), weighted.get_member_losses(batch))


def test_what_is_hard_is_learned_beside_what_is_easy():
    """Plain NLL spends its gradient on dimensions that are free of noise, and gives a third one up."""

    def transitions(n):
        state, action = torch.randn(n, 3), draw(ACTION, n)
        delta = torch.stack([state[:, 0], torch.cos(3 * action[:, 0]), state[:, 2]], dim=1)
        return Batch(state, None, action, state + delta, torch.zeros(n, dtype=torch.bool))

    errors = {}
    for beta in (0.0, 0.5):
        torch.manual_seed(0)
        model = make_ensemble(
            net=NET, n_models=3, statistics=False, create_optimizer=True, learning_rate=3e-3, beta_nll=beta
        )
        train = transitions(4000)
        model.learn([train[torch.randint(4000, (128,))] for _ in range(200)])
        errors[beta] = model.get_member_scores(transitions(1000)).mse[:, 1]
    assert errors[0.5].mean() < 0.2 * errors[0.0].mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta_nll": -0.1}, r"beta_nll: got -0\.1, expected a number in \[0, 1\]"),
        ({"beta_nll": 1.5}, r"beta_nll: got 1\.5, expected a number in \[0, 1\]"),
        ({"beta_nll": 0.5, "n_modes": 2}, r"beta_nll: got 0\.5 with n_modes=2, expected 0, or n_modes=1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_ensemble(**settings)
