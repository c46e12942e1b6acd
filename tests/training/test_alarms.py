"""Warnings: each is provoked by a real model, and silent where nothing is wrong."""

import warnings
from dataclasses import replace
from functools import partial

import gymnasium as gym
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn

from layeredrl.agents.mpc_agent import MPCAgent
from layeredrl.agents.random_agent import RandomAgent
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.models.losses import MemberScores
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.planners.cem import CEM
from layeredrl.planners.objective import ModelObjective
from layeredrl.training.alarms import ModelWarning, collapse, growing_gap, overfitting
from layeredrl.training.collector import Collector
from layeredrl.training.diagnosis import diagnose
from layeredrl.training.monitor import Monitor
from layeredrl.training.plan_outcomes import PlanOutcomes
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig, TrainReport
from tests.training.linear_system import ACTION, STATE, make_batch, make_buffer, make_model, make_reward_model


def fill(batch, holdout_ratio: float = 0.2, kind: type[ReplayBuffer] = ReplayBuffer) -> ReplayBuffer:
    buffer = kind(STATE, None, ACTION, len(batch), holdout_ratio=holdout_ratio)
    buffer.add(batch)
    return buffer


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def fit(model, buffer: ReplayBuffer, **settings) -> TrainReport:
    return EnsembleTrainer(model, TrainerConfig(**settings)).fit(buffer)


def held_out(buffer: ReplayBuffer):
    return buffer[buffer.is_holdout]


def say_twice(tmp_path, *args, **kwargs) -> list[str]:
    """What a monitor warns of when it is told of the same fit twice."""
    monitor = Monitor(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor.fit(*args, **kwargs)
        monitor.fit(*args, **kwargs)
    monitor.close()
    assert {warning.category for warning in caught} <= {ModelWarning}
    return [str(warning.message) for warning in caught]


# Overfitting ------------------------------------------------------------------------------------------------


def test_a_large_network_on_few_noisy_data_overfits_and_is_told_so_once(tmp_path, unchecked):
    buffer, model = make_buffer(40, 0.3), make_model(2, hidden_sizes=(64, 64))
    report = fit(model, buffer, max_epochs=200, patience=200, learning_rate=5e-3)
    (message,) = say_twice(tmp_path, report, model, 40, held_out(buffer))
    assert message.startswith("the dynamics model overfits: in 200 epochs, every member's held-out loss rose again")
    assert f"best epochs {report.best_epoch.tolist()}" in message


def test_a_reward_model_that_overfits_is_told_of_beside_the_dynamics(tmp_path, unchecked):
    batch = make_batch(40)
    buffer = fill(replace(batch, reward=noise(40)), 0.3)
    model = make_reward_model(2, hidden_sizes=(64, 64))
    report = fit(model, buffer, max_epochs=300, patience=300, learning_rate=5e-3)
    (message,) = say_twice(tmp_path, report, model, 40)
    assert message.startswith("the reward model overfits")


def make_report(train, holdout, n_holdout: int = 20) -> TrainReport:
    train, holdout = (torch.as_tensor(losses, dtype=torch.float32) for losses in (train, holdout))
    n_members = train.shape[1]
    scores = MemberScores(torch.zeros(n_members), torch.zeros(n_members), torch.zeros(n_members, 2))
    best, everyone = holdout.argmin(dim=0), torch.arange(n_members)
    return TrainReport(train, holdout, best, scores, scores, everyone, 80, n_holdout, 1.0)


def curves(first: float, last: float, *, dip: float = 0.0, scatter: float = 0.0, n_members: int = 3, n: int = 80):
    """Losses of members from `first` to `last`, by way of `dip` lower in the middle."""
    time = torch.linspace(0, 1, n)[:, None]
    line = first + (last - first) * time - dip * 4 * time * (1 - time)
    return line + scatter * noise(n, n_members)


def test_a_held_out_loss_that_rises_while_the_training_loss_falls_is_overfitting():
    message = overfitting(make_report(curves(2, -2), curves(2, 2, dip=3)), "model")
    assert message.startswith("the model overfits: in 80 epochs")
    assert "fell by" in message


@pytest.mark.parametrize(
    ("train", "holdout"),
    [
        (curves(2, -2), curves(2, -1)),
        (curves(2, -2), curves(2, 2, dip=3, scatter=2.0)),
        (curves(2, 2, dip=3), curves(2, 2, dip=3)),
        (curves(2, -2), curves(2, 2, dip=0.5)),
        (curves(2, -2), torch.cat([curves(2, 2, dip=9, n_members=2), curves(2, -1, n_members=1)], dim=1)),
        (curves(2, -2, n=8), curves(2, 2, dip=9, n=8)),
        (curves(2, -2), torch.full((80, 3), torch.nan)),
    ],
    ids=["both fall", "scatter", "both rise", "little", "one member is fine", "few epochs", "diverged"],
)
def test_other_curves_are_not(train, holdout):
    assert overfitting(make_report(train, holdout), "model") is None


def test_without_held_out_data_nothing_is_said_of_overfitting():
    assert overfitting(make_report(curves(2, -2), curves(2, 2, dip=3), n_holdout=0), "model") is None


# Collapse ---------------------------------------------------------------------------------------------------


class Unvaried(ReplayBuffer):
    """Every member gets the same bootstrap."""

    def bootstrap_counts(self, n_models):
        return super().bootstrap_counts(1).expand(-1, n_models).clone()


def seeded_net(*args):
    """All members start alike."""
    torch.manual_seed(3)
    return ProbFCDynamics(*args, hidden_sizes=(16,), nonlinearity=nn.SiLU)


def test_members_that_start_alike_and_learn_the_same_have_collapsed(tmp_path):
    buffer = fill(make_batch(200), kind=Unvaried)
    model = ProbabilisticEnsemble(STATE, None, ACTION, seeded_net, n_models=3)
    report = fit(model, buffer, max_epochs=40, batch_size=200, learning_rate=1e-2)
    (message,) = say_twice(tmp_path, report, model, 200, held_out(buffer))
    assert message.startswith("the 3 members have collapsed onto each other")
    assert "correlate at 1.0000" in message


def test_members_that_all_know_what_can_be_known_have_not_collapsed():
    """The targets are noise alone: errors are the noise, the same for everyone."""
    batch = make_batch(1000)
    batch = replace(batch, next_state=batch.state + noise(1000, 2).clamp(-4, 4))
    buffer, model = fill(batch), make_model(3)
    report = fit(model, buffer, max_epochs=15, learning_rate=3e-3)
    diagnosis = diagnose(model, held_out(buffer))
    assert diagnosis.mean_correlation > 0.97
    assert collapse(diagnosis, report.n_train) is None


def test_a_single_member_is_no_collapse():
    assert collapse(diagnose(make_model(1), make_batch(20)), 20) is None


# Noise at its bounds ----------------------------------------------------------------------------------------


def test_targets_beyond_the_upper_bound_of_the_noise_are_told_of(tmp_path, unchecked):
    """Nothing is normalised, and changes are far larger than the network may say."""
    batch, space = make_batch(200), Box(-100.0, 100.0, (2,))
    batch = replace(batch, next_state=batch.state + torch.tensor([9.0, 0.3]) * noise(200, 2))
    torch.manual_seed(0)
    model = ProbabilisticEnsemble(
        space, None, ACTION, partial(ProbFCDynamics, hidden_sizes=(16,)), n_models=2, normalize_targets=False
    )
    buffer = ReplayBuffer(space, None, ACTION, 200, holdout_ratio=0.2)
    buffer.add(batch)
    report = fit(model, buffer, max_epochs=40, learning_rate=2e-2)
    (message,) = say_twice(tmp_path, report, model, 200, held_out(buffer))
    assert message.startswith("the predicted noise of state dimensions [0] sits at its upper bound")
    assert "near 0.25, in units of the targets" in message


@pytest.fixture
def calm(unchecked):
    """What has learned from a world without noise, as sure as its bound allows; its fit; and data of that world."""
    batch = make_batch(200)
    batch = replace(batch, next_state=0.9 * batch.state)
    torch.manual_seed(0)
    net = partial(ProbFCDynamics, hidden_sizes=(16,), nonlinearity=nn.SiLU, min_log_std=-2.0)
    model, buffer = ProbabilisticEnsemble(STATE, None, ACTION, net, n_models=2), fill(batch)
    report = fit(model, buffer, max_epochs=60, learning_rate=1e-2)
    assert diagnose(model, held_out(buffer)).at_lower.share.min() > 0.9
    return report, model, held_out(buffer)


def test_a_model_that_is_as_sure_as_it_can_be_and_wrong_is_told_of(tmp_path, calm):
    report, model, data = calm
    surprise = torch.tensor([0.0, 0.5]) * noise(len(data), 2)
    (message,) = say_twice(tmp_path, report, model, 200, replace(data, next_state=data.next_state + surprise))
    assert message.startswith("the model is too sure of state dimensions [1]")
    assert "near the lower bound -2" in message


def test_a_dimension_without_noise_belongs_at_the_lower_bound(tmp_path, calm):
    report, model, data = calm
    assert say_twice(tmp_path, report, model, 200, data) == []


# Exploitation -----------------------------------------------------------------------------------------------


class Slider(gym.Env):
    """A point on a line that an action moves; what it costs is its distance from the middle."""

    observation_space, action_space = Box(-10.0, 10.0, (1,)), Box(-1.0, 1.0, (1,))
    gain = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.n_steps = self.np_random.uniform(2, 4, 1).astype("float32"), 0
        return self.position, {}

    def step(self, action):
        reward = -float(self.position[0] ** 2)
        self.position = (self.position + self.gain * action).astype("float32")
        self.n_steps += 1
        return self.position, reward, False, self.n_steps == 6, {}


def slide(monitor: Monitor, *, breaks: bool) -> None:
    """Learn to control it, and go on for nine episodes, in the last three of which the motor may be broken."""
    env = gym.vector.SyncVectorEnv([Slider])
    spaces = env.single_observation_space, None, env.single_action_space
    buffer = ReplayBuffer(*spaces, capacity=100)
    generator = torch.Generator().manual_seed(0)
    Collector(env, buffer, seed=0).collect(RandomAgent(spaces[2], generator=generator), 100)
    torch.manual_seed(0)
    model = ProbabilisticEnsemble(*spaces, partial(ProbFCDynamics, hidden_sizes=(8,)), n_models=2)
    fit(model, buffer, max_epochs=40, learning_rate=2e-2)
    objective = ModelObjective(model, lambda state, context, action, next_state: -state[..., 0].square())
    agent = MPCAgent(CEM(spaces[2], 3, n_candidates=20, n_iterations=2), objective, generator=generator)
    collector = Collector(env, seed=1)
    for number in range(9):
        env.envs[0].gain = 0.0 if breaks and number >= 6 else 1.0
        (episode,) = collector.collect(agent, 6)
        monitor.episode(episode, collector.n_steps, horizon=3)


def test_plans_that_promise_more_and_more_of_what_they_do_not_get_are_told_of_once(tmp_path, unchecked):
    monitor = Monitor(tmp_path)
    with pytest.warns(ModelWarning) as caught:
        slide(monitor, breaks=True)
    monitor.close()
    (message,) = {str(warning.message) for warning in caught}
    assert len(caught) == 1
    assert message.startswith("the exploitation gap grows: plans of the last 3 episodes promised")


def test_plans_that_get_what_they_promise_are_not(tmp_path, unchecked):
    monitor = Monitor(tmp_path)
    slide(monitor, breaks=False)
    monitor.close()


def outcomes(promised: float, realised: float) -> PlanOutcomes:
    return PlanOutcomes(torch.tensor([promised - 1, promised + 1]), torch.tensor([realised, realised]))


STEADY = [0.1, -0.2, 0.3, 0.0, 0.2, -0.1]


@pytest.mark.parametrize(
    ("gaps", "realised"),
    [
        ([*STEADY, 3.0, 3.5, 2.5], 100.0),  # a small part of what was earned
        ([*STEADY, 3.0, 0.25, 3.0], 1.0),  # not in a row
        ([5.0, 0.1, 0.0, 0.1, 0.2, 3.0, 3.1, 3.2], 10.0),  # no more than once before
        ([x - 20 for x in (*STEADY, 3.0, 3.5, 2.5)], 10.0),  # promises are still kept
        ([1.0, 2.0, 3.0, 4.0, 5.0, 5.5, 6.0, 6.5], 10.0),  # within three standard deviations
        ([*STEADY[:4], 3.0, 3.5, 2.5], 10.0),  # too few episodes to compare with
    ],
)
def test_a_gap_that_does_not_grow_or_does_not_matter_is_normal(gaps, realised):
    assert growing_gap([outcomes(realised + gap, realised) for gap in gaps]) is None


def test_a_gap_that_grows_is_told_in_figures():
    gaps = [*STEADY, 3.0, 3.5, 2.5]
    message = growing_gap([outcomes(10 + gap, 10.0) for gap in gaps])
    assert "promised 2.5 to 3.5 more on average" in message
    assert "those of 6 episodes before -0.2 to 0.3" in message
