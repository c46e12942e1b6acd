"""Recorded transitions come out of files as they went in."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from layeredrl.data.datasets import load_npz

STATES, ACTIONS = Box(-np.inf, np.inf, (3,), np.float64), Box(-1, 1, (2,), np.float32)


def arrays(n: int = 6) -> dict:
    generator = np.random.default_rng(0)
    return {
        "state": generator.normal(size=(n, 3)),
        "action": generator.uniform(-1, 1, size=(n, 2)),
        "next_state": generator.normal(size=(n, 3)),
        "terminated": np.arange(n) % 3 == 2,
        "truncated": np.arange(n) % 4 == 3,
        "reward": generator.normal(size=n),
    }


def test_a_file_holds_what_was_written(tmp_path):
    written = arrays()
    np.savez(tmp_path / "x.npz", **written)
    batch = load_npz(tmp_path / "x.npz", STATES, ACTIONS)
    for name, value in written.items():
        np.testing.assert_allclose(getattr(batch, name).numpy(), value, rtol=1e-6)
    assert batch.state.dtype == batch.reward.dtype == torch.float32
    assert batch.terminated.dtype == torch.bool
    assert batch.context is None


def test_rewards_truncations_and_what_nobody_asked_for_are_optional(tmp_path):
    written = arrays() | {"comment": np.array("hello")}
    del written["reward"], written["truncated"]
    np.savez_compressed(tmp_path / "x.npz", **written)
    batch = load_npz(tmp_path / "x.npz", STATES, ACTIONS)
    assert batch.reward is None
    assert batch.truncated is None


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_discrete_actions_and_contexts_become_rows(tmp_path, shape):
    numbers = np.arange(6).reshape(shape)
    np.savez(tmp_path / "x.npz", **{**arrays(), "action": numbers, "context": numbers})
    batch = load_npz(tmp_path / "x.npz", STATES, Discrete(6), Discrete(6))
    assert batch.action.tolist() == batch.context.tolist() == [[i] for i in range(6)]
    assert batch.action.dtype == torch.long


def test_states_of_any_shape_are_flattened(tmp_path):
    images = np.arange(6 * 4.0).reshape(6, 2, 2)
    np.savez(tmp_path / "x.npz", **{**arrays(), "state": images, "next_state": images})
    batch = load_npz(tmp_path / "x.npz", Box(-np.inf, np.inf, (2, 2)), ACTIONS)
    np.testing.assert_array_equal(batch.state.numpy(), images.reshape(6, 4))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"state": np.zeros((6, 4))}, r"state: got shape \(6, 4\) in .*x.npz, expected 6 rows of 3 for Box"),
        ({"next_state": np.zeros((5, 3))}, r"next_state: got shape \(5, 3\) .* expected 6 rows of 3"),
        ({"state": np.zeros(18)}, r"state: got shape \(18,\)"),
        ({"reward": np.zeros((6, 1))}, r"reward: got float64 of shape \(6, 1\) in .*, expected 6 numbers"),
        ({"terminated": np.zeros(5, bool)}, r"terminated: got bool of shape \(5,\)"),
        ({"truncated": np.array(["a"] * 6)}, r"truncated: got <U1 of shape \(6,\) in .*, expected 6 numbers"),
        ({"state": np.array(0.0)}, r"state: got shape \(\)"),
        ({"state": np.array(["a"] * 18).reshape(6, 3)}, r"state: got <U1 in .*, expected numbers"),
        ({"state": np.array([None] * 18).reshape(6, 3)}, r"expected arrays that numpy.savez wrote: Object arrays"),
    ],
)
def test_a_wrong_array_is_named(tmp_path, changed, message):
    np.savez(tmp_path / "x.npz", **{**arrays(), **changed})
    with pytest.raises(ValueError, match=message):
        load_npz(tmp_path / "x.npz", STATES, ACTIONS)


def test_a_missing_array_is_named(tmp_path):
    written = arrays()
    del written["terminated"], written["action"]
    np.savez(tmp_path / "x.npz", **written)
    with pytest.raises(ValueError, match=r"arrays \['next_state', .*\], expected action, terminated as well"):
        load_npz(tmp_path / "x.npz", STATES, ACTIONS)
    with pytest.raises(ValueError, match="expected action, context, terminated as well"):
        load_npz(tmp_path / "x.npz", STATES, ACTIONS, Discrete(2))


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 broken"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"path: got .*x.npz, expected arrays that numpy.savez wrote"):
        load_npz(tmp_path / "x.npz", STATES, ACTIONS)


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"expected arrays that numpy.savez wrote"):
        load_npz(tmp_path / "x.npy", STATES, ACTIONS)
