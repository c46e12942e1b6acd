"""What an ensemble learns of systems whose truth is known: real fits, by the trainer's defaults unless said."""

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.metrics.calibration import COVERAGE_LEVELS
from layeredrl.metrics.one_step import evaluate_one_step
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig
from layeredrl.types import Batch

pytestmark = pytest.mark.usefixtures("unchecked")


def transitions(state, action, next_state) -> Batch:
    return Batch(state, None, action, next_state, terminated=torch.zeros(len(state), dtype=torch.bool))


def bouncing_ball(n: int) -> Batch:
    """A falling ball hits a floor on which it sticks every second time, in the mean, and else bounces."""
    velocity, push = -0.5 - torch.rand(n, 1), 2 * torch.rand(n, 1) - 1
    bounces = torch.rand(n, 1) < 0.5
    after = torch.where(bounces, -0.8 * velocity, 0.0) + 0.1 * push + 0.02 * torch.randn(n, 1)
    return transitions(velocity, push, after)


def linear_system(n: int, *, heteroscedastic: bool) -> Batch:
    """Gaussian noise of 0.1, or of 0.05 … 0.2 depending on the other coordinate of the state."""
    state, action = torch.randn(n, 2), 2 * torch.rand(n, 1) - 1
    mean = state @ torch.tensor([[0.9, -0.2], [0.2, 0.9]]) + action * torch.tensor([0.0, 0.5])
    std = 0.05 + 0.15 * torch.sigmoid(2 * state.flip(-1)) if heteroscedastic else 0.1
    return transitions(state, action, mean + std * torch.randn(n, 2))


def fit(batch: Batch, config: TrainerConfig, *, hidden_sizes=(64, 64), **more) -> ProbabilisticEnsemble:
    spaces = Box(-np.inf, np.inf, batch.state.shape[1:]), None, Box(-1, 1, batch.action.shape[1:])
    buffer = ReplayBuffer(*spaces, capacity=len(batch))
    buffer.add(batch)
    net = partial(ProbFCDynamics, hidden_sizes=hidden_sizes, nonlinearity=nn.SiLU)
    model = ProbabilisticEnsemble(*spaces, partial_net=net, **more)
    EnsembleTrainer(model, config).fit(buffer)
    return model


def test_where_a_contact_has_two_outcomes_several_modes_explain_far_more_than_one():
    train, test = bouncing_ball(1000), bouncing_ball(2000)
    one, five = (fit(train, TrainerConfig(max_epochs=40), n_models=3, n_modes=m) for m in (1, 5))
    nll = [float(evaluate_one_step(model, test).ensemble.nll) for model in (one, five)]
    assert nll[1] < nll[0] - 1.0


def test_noise_that_depends_on_the_state_is_calibrated_after_two_thousand_transitions():
    model = fit(linear_system(2000, heteroscedastic=True), TrainerConfig(), n_models=5)
    forecast = evaluate_one_step(model, linear_system(20_000, heteroscedastic=True)).ensemble
    within = forecast.coverage[:, COVERAGE_LEVELS.index(0.9)]
    assert ((within >= 0.88) & (within <= 0.92)).all()
    assert (forecast.calibration_error <= 0.02).all()


@pytest.mark.slow
def test_ignorance_falls_as_one_over_the_number_of_transitions():
    """Of linear members, each with a bootstrap of its own, it is p / n of the noise: that of least squares."""
    test = linear_system(2000, heteroscedastic=False)
    config = TrainerConfig(
        learning_rate=1e-2,
        schedule="cosine",
        batch_size=250,
        max_epochs=1500,
        max_updates=1500,
        patience=1500,
        min_improvement=0.0,
    )
    ignorance = {}
    for n in (500, 5000):
        trains = [linear_system(n, heteroscedastic=False) for _ in range(3)]
        models = [fit(train, config, hidden_sizes=(), n_models=20) for train in trains]
        stds = torch.stack([evaluate_one_step(model, test).epistemic_std for model in models])
        ignorance[n] = float(stds.square().mean())
        n_parameters, n_train = 4, 0.9 * n
        assert ignorance[n] == pytest.approx(0.1**2 * n_parameters / n_train, rel=0.3)
    assert ignorance[500] / ignorance[5000] == pytest.approx(10, rel=0.3)
