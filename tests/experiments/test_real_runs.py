"""Longer real runs, by hand: `scripts/test -m slow`. They take minutes each."""

import json
from pathlib import Path

import pytest

from experiments.pets import Args, main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unchecked")]


def run(tmp_path: Path, env_id: str, **settings) -> dict:
    main(Args(env_id=env_id, name="run", runs=tmp_path, **settings))
    return json.loads((tmp_path / env_id / "run" / "result.json").read_text())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pendulum_is_swung_up_after_a_thousand_steps(tmp_path, seed):
    result = run(tmp_path, "Pendulum-v1", seed=seed, eval_episodes=20)
    assert result["evaluation_return_mean"] >= -180


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("env_id", "steps", "best"), [("InvertedPendulum-v5", 3000, 1000), ("CartPole-v1", 2000, 500)]
)
def test_poles_are_balanced_to_the_end_of_an_episode(tmp_path, env_id, steps, best, seed):
    result = run(tmp_path, env_id, steps=steps, seed=seed, eval_episodes=0)
    assert max(episode["return"] for episode in result["training"]) == best


def test_reacher_reaches_after_three_thousand_steps(tmp_path):
    result = run(tmp_path, "Reacher-v5", steps=3000, eval_episodes=20)
    assert result["evaluation_return_mean"] >= -6
