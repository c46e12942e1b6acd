"""Minari datasets, recorded here, come out as they went in."""

import sys
from dataclasses import replace

import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Text

from layeredrl.data.datasets import load_minari
from layeredrl.data.episodes import episode_numbers

# Minari would like to know who records, and by what code.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari.utils")
STATES = Box(-np.inf, np.inf, (2,), np.float32)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def episode(n: int, *, terminates: bool = False, truncates: bool = False, offset: float = 0.0):
    last = np.arange(n) == n - 1
    observations = offset + np.arange(2.0 * (n + 1), dtype=np.float32).reshape(n + 1, 2)
    return minari.data_collector.EpisodeBuffer(
        observations=observations,
        actions=np.arange(n) % 3,
        rewards=np.arange(n, dtype=float),
        terminations=last & terminates,
        truncations=last & truncates,
        infos={},
    )


def record(*episodes, observation_space=STATES) -> str:
    minari.create_dataset_from_buffers(
        "here/test-v0", list(episodes), observation_space=observation_space, action_space=Discrete(3)
    )
    return "here/test-v0"


def test_episodes_become_transitions():
    name = record(episode(3, terminates=True), episode(2, truncates=True, offset=50.0))
    batch, state_space, action_space = load_minari(name)
    assert batch.state.tolist() == [[0, 1], [2, 3], [4, 5], [50, 51], [52, 53]]
    assert batch.next_state.tolist() == [[2, 3], [4, 5], [6, 7], [52, 53], [54, 55]]
    assert batch.action.tolist() == [[0], [1], [2], [0], [1]]
    assert batch.reward.tolist() == [0, 1, 2, 0, 1]
    assert batch.terminated.tolist() == [False, False, True, False, False]
    assert batch.truncated.tolist() == [False, False, False, False, True]
    assert state_space == STATES
    assert action_space == Discrete(3)


def test_an_episode_that_was_never_finished_is_cut_off():
    batch, *_ = load_minari(record(episode(2), episode(2)))
    assert batch.truncated.tolist() == [False, True, False, True]
    assert episode_numbers(batch).tolist() == [0, 0, 1, 1]


def test_it_stops_with_the_episode_that_is_enough():
    name = record(*[episode(3, terminates=True)] * 4)
    lengths = [len(load_minari(name, max_transitions=n).batch) for n in (1, 3, 4, 100)]
    assert lengths == [3, 3, 6, 12]


def test_an_unknown_dataset_is_named():
    with pytest.raises(ValueError, match=r"dataset_id: got 'no/such-v0', expected one on this machine"):
        load_minari("no/such-v0")


def test_what_cannot_be_laid_out_in_rows_is_refused():
    strings = replace(episode(1), observations=["a", "b"])
    with pytest.raises(TypeError, match=r"observation_space: got Text.*, expected a gymnasium Box"):
        load_minari(record(strings, observation_space=Text(3)))


def test_without_minari_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ImportError, match=r"pip install -e '.\[minari\]'"):
        load_minari("here/test-v0")
