"""Evaluation episodes and open-loop forecasts."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from layeredrl.agents.random_agent import RandomAgent
from layeredrl.training.collector import Episode
from layeredrl.training.evaluation import FORECAST_REPEATS, cut_episodes, evaluate, forecast
from tests.training.counting_env import MODES, EchoAgent, make_env, true_episode
from tests.training.linear_system import make_batch, make_model


def pendulum(n_envs: int = 3, length: int = 12) -> gym.vector.VectorEnv:
    return gym.make_vec("Pendulum-v1", num_envs=n_envs, vectorization_mode="sync", max_episode_steps=length)


def make_episode(length: int = 10) -> Episode:
    batch = make_batch(length + 1)
    reward = torch.arange(length, dtype=torch.float32)
    return Episode(0, batch.state, batch.action[:-1], reward, terminated=False, info={})


def fitted_model(**more):
    """Not trained, but its members differ and its units are those of the data."""
    model = make_model(n_particles_per_model=4, **more)
    model.set_statistics(make_batch(500))
    return model


@pytest.mark.parametrize("mode", MODES)
def test_evaluate_gives_the_first_episode_of_each_environment_in_order(mode):
    lengths = (4, 1, 6, 2)
    agent = EchoAgent()
    episodes = evaluate(make_env(mode, lengths), agent, seed=0)
    assert [episode.env for episode in episodes] == [0, 1, 2, 3]
    for env, episode in enumerate(episodes):
        assert episode.state[:, 0].tolist() == true_episode(env, 0, lengths[env])[0]
    assert len(agent.acted) == max(lengths)


def test_the_agent_forgets_before_and_after_an_evaluation():
    agent = EchoAgent()
    evaluate(make_env(MODES[0], (2, 2)), agent, seed=0)
    assert agent.resets[0] is None
    assert agent.resets[-1] is None


def test_an_evaluation_follows_its_seed():
    def run(seed: int, actions: int) -> list[Episode]:
        agent = RandomAgent(pendulum().single_action_space, generator=torch.Generator().manual_seed(actions))
        return evaluate(pendulum(), agent, seed=seed)

    one, two, other = run(5, 0), run(5, 0), run(6, 0)
    assert all(torch.equal(x.state, y.state) for x, y in zip(one, two, strict=True))
    assert all(len(episode) == 12 for episode in one)
    # Environment i starts from seed + i, so that the same starts come with another number of environments.
    assert torch.equal(one[1].state[0], other[0].state[0])
    assert not torch.equal(one[0].state[0], other[0].state[0])
    start, _ = gym.make("Pendulum-v1").reset(seed=7)
    assert torch.equal(one[2].state[0], torch.from_numpy(start))


def test_its_progress_is_shown_on_request_only(capsys):
    evaluate(make_env(MODES[0], (2, 3)), EchoAgent(), seed=0)
    assert capsys.readouterr().err == ""
    evaluate(make_env(MODES[0], (2, 3)), EchoAgent(), seed=0, progress=True)
    assert "finished=2/2" in capsys.readouterr().err


def test_a_forecast_lies_beside_what_happened():
    episode = make_episode()
    result = forecast(fitted_model(), episode, horizon=6, levels=(0.1, 0.5, 0.9))
    assert result.levels == (0.1, 0.5, 0.9)
    assert result.quantiles.shape == (3, 7, 2)
    assert torch.equal(result.actual, episode.state[:7])
    assert torch.equal(result.quantiles[:, 0], episode.state[0].expand(3, -1))
    assert bool((result.quantiles.diff(dim=0) >= 0).all())
    assert bool((result.quantiles[2, 1:] > result.quantiles[0, 1:]).all())
    assert not result.quantiles.requires_grad


@pytest.mark.parametrize("horizon", [10, 11, 1000])
def test_a_forecast_ends_with_its_episode(horizon):
    result = forecast(fitted_model(), make_episode(10), horizon=horizon)
    assert result.actual.shape == (11, 2)
    assert result.quantiles.shape == (5, 11, 2)


def test_a_forecast_is_the_elites_rollout_of_the_actions_taken():
    model, episode = fitted_model(), make_episode()
    model.set_elites(torch.tensor([0, 2]))
    result = forecast(model, episode, horizon=5, levels=(0.25, 0.75), generator=torch.Generator().manual_seed(1))
    rollout = model.rollout(
        episode.state[:1].repeat(FORECAST_REPEATS, 1),
        None,
        episode.action[None, :5].repeat(FORECAST_REPEATS, 1, 1),
        members=torch.tensor([0, 2]),
        generator=torch.Generator().manual_seed(1),
    )
    particles = rollout.state.detach().numpy()
    assert particles.shape == (FORECAST_REPEATS, 2, 4, 6, 2)
    expected = np.quantile(particles, (0.25, 0.75), axis=(0, 1, 2))
    assert np.allclose(result.quantiles, expected, atol=1e-5)
    for std, var in (
        (result.epistemic_std, rollout.state_epistemic_var),
        (result.aleatoric_std, rollout.state_aleatoric_var),
    ):
        assert torch.allclose(std, var.detach()[:, 1:].mean(dim=(0, 1)).sqrt())
    assert bool((result.epistemic_std > 0).all())


def test_a_forecast_follows_the_model_it_is_given():
    """Members without weights expect that nothing moves."""
    model, episode = fitted_model(), make_episode(4)
    with torch.no_grad():
        for parameter in model.get_parameters():
            parameter.zero_()
    still = replace(episode, state=episode.state[:1].repeat(5, 1))
    result = forecast(model, still, horizon=4, levels=(0.5,))
    spread = result.aleatoric_std
    assert bool(((result.quantiles[0] - still.state).abs() < spread).all())
    assert torch.allclose(result.epistemic_std, torch.zeros(2), atol=1e-4)


def test_a_forecast_changes_nothing_in_the_model():
    model = fitted_model()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    forecast(model, make_episode(), horizon=5)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert not model.training


@pytest.mark.parametrize("horizon", [0, -1])
def test_a_horizon_of_no_step_is_refused_by_name(horizon, unchecked):
    with pytest.raises(ValueError, match=f"horizon: got {horizon}"):
        forecast(fitted_model(), make_episode(), horizon=horizon)


def test_episodes_are_cut_into_windows_that_none_of_them_shares_with_another():
    """Even where one starts just where another has ended."""
    long, short = make_episode(7), make_episode(3)
    short = replace(short, state=torch.cat([long.state[-1:], short.state[1:]]))
    segments = cut_episodes([long, short], 3)
    assert torch.equal(segments.state, torch.stack([long.state[:4], long.state[3:7], short.state]))
    assert torch.equal(segments.action, torch.stack([long.action[:3], long.action[3:6], short.action]))
    assert len(cut_episodes([long, short], 3, stride=1)) == 5 + 1


def test_windows_are_no_longer_than_the_longest_episode():
    assert cut_episodes([make_episode(7), make_episode(3)], 50).action.shape == (1, 7, 1)
