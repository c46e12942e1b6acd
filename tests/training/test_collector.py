"""Collector: the stream of an environment that counts, stored and cut into episodes."""

import contextlib

import pytest
import torch
from gymnasium.vector import AutoresetMode

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.training.collector import Collector, Episode
from tests.training.counting_env import BOX, DISCRETE, ENV, MODES, CountingEnv, EchoAgent, make_env, true_episode

LENGTHS = (3, 1, 5)
STATE = CountingEnv.observation_space


def make_buffer(capacity: int = 1000, context=None, action=BOX) -> ReplayBuffer:
    return ReplayBuffer(STATE, context, action, capacity)


def run(mode, n_steps: int, lengths=LENGTHS, **more) -> tuple[ReplayBuffer, list[Episode], EchoAgent, Collector]:
    discrete = more.get("action_space") == DISCRETE
    buffer, agent = make_buffer(action=more.get("action_space", BOX)), EchoAgent(discrete=discrete)
    collector = Collector(make_env(mode, lengths, **more), buffer)
    episodes = [episode for _ in range(n_steps) for episode in collector.step(agent)]
    return buffer, episodes, agent, collector


@pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["Box", "Discrete"])
@pytest.mark.parametrize("mode", MODES)
def test_the_buffer_holds_what_happened_once_and_in_order(mode, action_space):
    buffer, _, agent, _ = run(mode, 20, action_space=action_space)
    stored = buffer[:]
    for env, length in enumerate(LENGTHS):
        own = stored[(stored.state[:, 0] / ENV).floor() == env]
        n = len(own)
        assert n >= 10
        truth = [true_episode(env, episode, length) for episode in range(n)]
        counts = [count for steps, _ in truth for count in steps[:-1]][:n]
        flags = [(False, False)] * (length - 1)
        endings = [flag for _, ending in truth for flag in (*flags, ending)][:n]
        assert own.state[:, 0].tolist() == counts
        assert own.next_state[:, 0].tolist() == [count + 1 for count in counts]
        assert torch.equal(own.action, agent.action(own.state))
        assert torch.equal(own.reward, own.action[:, 0].float())
        assert list(zip(own.terminated.tolist(), own.truncated.tolist(), strict=True)) == endings


def test_all_modes_store_the_same_transitions():
    stored = []
    for mode in MODES:
        collector = Collector(make_env(mode, (4,)), make_buffer(22))
        collector.collect(EchoAgent(), 22)
        stored.append(dict(collector.buffer[:].items()))
    for name in stored[0]:
        assert torch.equal(stored[0][name], stored[1][name]), name
        assert torch.equal(stored[0][name], stored[2][name]), name


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_cut_where_they_end(mode):
    _, episodes, agent, _ = run(mode, 30)
    for env, length in enumerate(LENGTHS):
        own = [episode for episode in episodes if episode.env == env]
        assert len(own) >= 30 // (length + 1)
        for n, episode in enumerate(own):
            counts, (terminated, _) = true_episode(env, n, length)
            assert episode.state[:, 0].tolist() == counts
            assert len(episode) == length
            assert torch.equal(episode.action, agent.action(episode.state[:-1]))
            assert torch.equal(episode.reward, episode.action[:, 0])
            assert episode.return_ == sum(count % 4 for count in counts[:-1])
            assert episode.terminated == terminated
            assert torch.equal(episode.info["value"], episode.state[:-1, 0] / 2)
            assert episode.info["act_seconds"].shape == (length,)


@pytest.mark.parametrize("mode", MODES)
def test_episodes_that_end_together_come_in_the_order_of_environments(mode):
    _, episodes, _, _ = run(mode, 3, lengths=(3, 2, 3))
    assert [episode.env for episode in episodes] == [1, 0, 2]


@pytest.mark.parametrize("mode", MODES)
def test_the_agent_is_told_who_ended_and_nobody_else(mode):
    _, _, agent, collector = run(mode, 0, lengths=(3, 2, 4))
    ended: set[int] = set()
    for _ in range(20):
        ended_before, n_resets = ended, len(agent.resets)
        ended = {episode.env for episode in collector.step(agent)}
        told = {env for mask in agent.resets[n_resets:] for env in range(3) if mask[env]}
        # With NEXT_STEP the new episode begins a step later.
        begins = ended_before if mode is AutoresetMode.NEXT_STEP else ended
        assert begins <= told <= begins | ended


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_remembers_nothing_when_an_episode_begins(mode):
    """It was last told to forget after the last question about the episode before."""
    _, episodes, _, _ = run(mode, 25)
    for episode in episodes:
        assert episode.info["age"].tolist() == list(range(len(episode)))


@pytest.mark.parametrize("mode", MODES)
def test_n_steps_counts_transitions(mode):
    buffer, _, _, collector = run(mode, 17)
    assert collector.n_steps == buffer.n_added
    # With NEXT_STEP an episode of length n takes n + 1 steps.
    expected = 13 + 9 + 15 if mode is AutoresetMode.NEXT_STEP else 3 * 17
    assert collector.n_steps == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 7, 20])
def test_collect_stops_at_the_first_step_that_has_enough(mode, n):
    collector = Collector(make_env(mode, LENGTHS), make_buffer())
    agent = EchoAgent()
    for _ in range(2):
        before = collector.n_steps
        episodes = collector.collect(agent, n)
        assert n <= collector.n_steps - before < n + 3
    assert collector.buffer.n_added == collector.n_steps
    assert all(len(episode) == LENGTHS[episode.env] for episode in episodes)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_lost_when_the_agent_changes_in_mid_episode(mode):
    one, two = EchoAgent("confidence"), EchoAgent("value", sign=-1)
    collector = Collector(make_env(mode, (4,)), make_buffer())
    assert collector.collect(one, 2) == []
    episodes = collector.collect(two, 2)
    assert len(episodes) == 1
    assert episodes[0].state[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert episodes[0].action[:, 0].tolist() == [0, 1, -2, -3]
    assert episodes[0].info.keys() == {"age", "act_seconds"}


def test_it_works_without_a_buffer():
    collector = Collector(make_env(AutoresetMode.SAME_STEP, LENGTHS))
    assert len(collector.collect(EchoAgent(), 15)) == 5 + 1 + 1


@pytest.mark.parametrize("mode", MODES)
def test_a_nan_from_the_environment_is_refused_and_not_stored(mode):
    collector = Collector(make_env(mode, (5, 5), nan_at=ENV + 3), make_buffer())
    collector.collect(EchoAgent(), 4)
    with pytest.raises(ValueError, match=r"Batch\.next_state: row 1 is nan, expected finite values"):
        collector.step(EchoAgent())
    assert collector.buffer.n_added == collector.n_steps == 4
    assert bool(collector.buffer[:].next_state.isfinite().all())


@pytest.mark.parametrize("mode", MODES)
def test_who_goes_on_after_a_nan_stores_no_leap_over_it(mode):
    collector = Collector(make_env(mode, (5,), nan_at=3), make_buffer())
    for _ in range(12):
        with contextlib.suppress(ValueError):
            collector.step(EchoAgent())
    stored = collector.buffer[:]
    assert len(stored) > 5
    assert torch.equal(stored.next_state[:, 0], stored.state[:, 0] + 1)


def test_a_buffer_that_wants_contexts_says_so():
    collector = Collector(make_env(AutoresetMode.SAME_STEP, LENGTHS), make_buffer(context=BOX))
    with pytest.raises(ValueError, match=r"Batch\.context: got None, expected rows of Box"):
        collector.step(EchoAgent())


def test_what_is_no_vector_environment_is_refused(unchecked):
    with pytest.raises(TypeError, match="env: got CountingEnv, expected a vector environment"):
        Collector(CountingEnv(0, 3))


@pytest.mark.parametrize("mode", MODES)
def test_episodes_start_from_the_seed(mode):
    env = make_env(mode, LENGTHS)
    Collector(env, seed=7)
    assert env.np_random_seed == (7, 8, 9)


@pytest.mark.parametrize(("n", "kept"), [(2, 2), (5, 5), (9, 5)])
def test_the_last_steps_of_an_episode_are_one_too(n, kept):
    state, info = torch.arange(6.0)[:, None], {"value": torch.arange(5.0)}
    episode = Episode(0, state, state[:-1], torch.arange(5.0), terminated=True, info=info)
    tail = episode.last(n)
    assert tail.state[:, 0].tolist() == list(range(5 - kept, 6))
    assert (
        tail.action[:, 0].tolist()
        == tail.reward.tolist()
        == tail.info["value"].tolist()
        == list(range(5 - kept, 5))
    )
    assert tail.terminated
