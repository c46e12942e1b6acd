"""What becomes of the learning rate within a fit."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig
from layeredrl.types import Batch

N = 200


def trainer(**settings) -> tuple[EnsembleTrainer, ReplayBuffer, list[float]]:
    """A trainer, transitions of noise, and the learning rates of its updates, as it makes them."""
    spaces = Box(-np.inf, np.inf, (2,)), None, Box(-1, 1, (1,))
    buffer = ReplayBuffer(*spaces, capacity=N)
    state, next_state = torch.randn(2, N, 2)
    buffer.add(Batch(state, None, torch.zeros(N, 1), next_state, torch.zeros(N, dtype=torch.bool)))
    model = ProbabilisticEnsemble(*spaces, partial_net=lambda *args: ProbFCDynamics(*args, hidden_sizes=(4,)))
    made = EnsembleTrainer(model, TrainerConfig(learning_rate=0.01, batch_size=16, patience=1000, **settings))
    rates: list[float] = []
    made.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    return made, buffer, rates


def test_it_is_constant_unless_said():
    made, buffer, rates = trainer(max_epochs=3)
    made.fit(buffer)
    assert set(rates) == {0.01}


@pytest.mark.parametrize("limits", [{"max_epochs": 20}, {"max_epochs": 1000, "max_updates": 200}])
def test_cosine_rises_first_and_falls_to_nothing_by_the_last_update(limits):
    made, buffer, rates = trainer(schedule="cosine", **limits)
    made.fit(buffer)
    n, top = len(rates), rates.index(max(rates))
    assert top / n == pytest.approx(0.05, abs=0.01)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(0.01, rel=0.02)
    assert rates[0] < 0.002
    assert rates[-1] < 1e-5
    half = top + (n - top) // 2
    assert rates[half] == pytest.approx(0.005, rel=0.05)


def test_every_fit_has_a_schedule_of_its_own():
    made, buffer, rates = trainer(schedule="cosine", max_epochs=4)
    made.fit(buffer)
    made.fit(buffer)
    assert rates[: len(rates) // 2] == rates[len(rates) // 2 :]


def test_an_unknown_schedule_is_named(unchecked):
    with pytest.raises(ValueError, match="schedule: got 'linear', expected one of constant, cosine"):
        TrainerConfig(schedule="linear")
